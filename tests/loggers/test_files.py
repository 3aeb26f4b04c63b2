"""logger=csv and logger=tensorboard: what lies on disk after a run, after one that was killed, and after it has started again."""

import csv

import pytest

from pvera import loggers
from pvera.errors import UserError
from pvera.loggers.csv import read
from tests.helpers.watched import GRID, epochs, make, start, values, whole

pytestmark = pytest.mark.usefixtures("hydra")


def lines(path) -> list[dict]:
    """The file as any reader of CSV has it, with numbers as floats."""
    with path.with_suffix(".csv").open(newline="") as file:
        return [{key: value if key == "point" else float(value) for key, value in line.items()} for line in csv.DictReader(file)]


def logged(*numbers: int) -> list[dict]:
    return [{"point": "", **values(number, 0)} for number in numbers]


def test_every_epoch_is_a_line_and_there_as_soon_as_it_is_logged(tmp_path):
    run = make("csv", tmp_path)
    path = start(run)
    assert not path.with_suffix(".csv").exists()  # nothing was trained yet
    for number in (1, 2):
        epochs(run, number)
        assert lines(path) == logged(*range(1, number + 1))
    loggers.finish(run.logger, None)
    assert path.with_suffix(".csv").read_text().startswith("epoch,point,cross_entropy,penalty,kl,sigma,lr,")


def test_the_points_of_a_grid_are_lines_with_their_names(tmp_path):
    path, _ = whole(make("csv", tmp_path, GRID), 1, 2)
    expected = [{"point": f"lr={lr}", **values(epoch, point)} for epoch in (1, 2) for point, lr in enumerate((0.01, 0.001))]
    assert lines(path) == expected


def killed(tmp_path, *numbers: int):
    """The path of a run that was killed after these epochs, in the middle of a line."""
    run = make("csv", tmp_path)
    path = start(run)
    epochs(run, *numbers)
    with path.with_suffix(".csv").open("a") as file:
        file.write("9,,0.5,0.")
    return path


def test_a_line_that_is_not_whole_is_not_read(tmp_path):
    path = killed(tmp_path, 1, 2)
    assert [line["epoch"] for line in read(path.with_suffix(".csv"))] == ["1", "2"]


@pytest.mark.parametrize("numbers", [(1, 2, 3, 4), (3, 4), (4,)])
def test_a_run_that_starts_again_has_every_epoch_once(numbers, tmp_path):
    killed(tmp_path, 1, 2, 3)
    path, _ = whole(make("csv", tmp_path), *numbers)
    assert lines(path) == logged(1, 2, 3, 4)


def test_a_run_that_starts_again_with_nothing_left_to_train_keeps_its_lines(tmp_path):
    killed(tmp_path, 1, 2)
    path, _ = whole(make("csv", tmp_path))
    assert [line["epoch"] for line in read(path.with_suffix(".csv"))] == ["1", "2"]


def test_a_new_value_gets_a_column(tmp_path):
    run = make("csv", tmp_path)
    path = start(run)
    loggers.epoch(run.logger, 0, {"epoch": 1, "val_loss": 0.5})
    loggers.epoch(run.logger, 0, {"epoch": 2, "val_loss": 0.25, "mu": 2.0})
    loggers.epoch(run.logger, 0, {"epoch": 3, "val_loss": 0.125})
    loggers.finish(run.logger, None)
    assert path.with_suffix(".csv").read_text() == "epoch,point,val_loss,mu\n1,,0.5,\n2,,0.25,2.0\n3,,0.125,\n"


def scalars(folder) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads from a run's folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder)).Reload()
    return {name: [(event.step, event.value) for event in found.Scalars(name)] for name in found.Tags()["scalars"]}


def test_tensorboard_reads_every_epoch_and_the_test(tmp_path):
    path, row = whole(make("tensorboard", tmp_path, GRID), 1, 2)
    found = scalars((tmp_path / "tensorboard" / path.relative_to(tmp_path)).with_suffix(""))
    assert found["val_loss/lr=0.001"] == [(1, 2.0), (2, 1.5)]
    assert found["kl/lr=0.01"] == [(1, 0.5), (2, 1.0)]
    assert found["test/ace"] == [(row["best_epoch"], pytest.approx(row["test"]["ace"]))]
    assert len([name for name in found if name.endswith("lr=0.01")]) == len(values(1, 0)) - 1


def test_tensorboard_shows_an_epoch_that_was_trained_again_once(tmp_path):
    first = make("tensorboard", tmp_path)
    start(first)
    epochs(first, 1, 2, 3)
    loggers.finish(first.logger, None)
    path, _ = whole(make("tensorboard", tmp_path), 3, 4)
    found = scalars((tmp_path / "tensorboard" / path.relative_to(tmp_path)).with_suffix(""))
    assert found["kl"] == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0)]


@pytest.mark.parametrize("content", [b"epoch,point\n\xff,1\n", b'epoch,point\n1,"' + b"x" * 200_000 + b'"\n'])
def test_a_file_that_is_no_csv_is_named(tmp_path, content):
    (tmp_path / "seed=0.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"seed=0.csv is not a log of epochs: [^\n]*$"):
        read(tmp_path / "seed=0.csv")
