"""The forecast of a sweep: counts, sums and text. How good the estimate is, the benchmarks show."""

from pvera.sweeps import forecast, jobs
from pvera.sweeps.execute import row_path
from pvera.sweeps.forecast import Part, describe, epochs_so_far, estimate
from pvera.training.cost import Costs
from tests.helpers.rows import make_row
from tests.helpers.tiny import DIGITS

SIZES = {"train800": 800, "val200": 200, "train1000": 1000, "test": 50}
TINY = [*DIGITS, "trainer.epochs=2"]


def costs(**changes) -> Costs:
    fields = {"setup": 5.0, "frozen": 0.0, "train": 0.0, "evaluate": 0.0, "pack": 1, "memory": 2**20, "parameters": 10}
    return Costs(**fields | changes)


def runs(*words: str) -> list:
    [found] = jobs.packs([*TINY, *words])
    return found


def test_seconds_are_those_of_every_image_at_its_cost():
    three = runs("adapter=vera", "seed=[0,1]")  # three points a seed, chosen ones trained again on train1000
    assert costs().seconds(three, 2, 1, SIZES) == 5
    assert costs(frozen=1).seconds(three, 2, 1, SIZES) == 5 + 800 + 200 + 1000 + 50
    assert costs(train=1).seconds(three, 2, 1, SIZES) == 5 + 6 * 2 * 800 + 2 * 1 * 1000
    assert costs(evaluate=1).seconds(three, 2, 1, SIZES) == 5 + 6 * 3 * 200 + 2 * 50
    alone = runs("adapter=lora", "adapter.rank=4", "protocol.retrain=false")
    assert costs(train=1).seconds(alone, 2, 2, SIZES | {"train1000": 0}) == 5 + 2 * 800


def test_points_are_taken_to_stop_where_those_of_the_rows_did():
    rows = [
        make_row(adapter="lora", best_epoch=best, grid=[{"epochs": e} for e in stops]) for best, stops in ((4, (10, 20)), (8, (30, 40)))
    ]
    assert epochs_so_far(rows) == {"lora": (25, 6)}
    lora = runs("adapter=lora", "adapter.rank=4", "trainer.epochs=100")
    part = estimate(lora, costs(train=1, setup=0), epochs_so_far(rows))
    assert (part.most, part.likely) == (100 * 800 + 100 * 1000, 25 * 800 + 6 * 1000)
    assert estimate(lora, costs(train=1, setup=0), {}).likely == part.most


def test_a_fixed_length_is_neither_cut_by_earlier_rows_nor_by_images_that_fill_no_batch():
    words = ["protocol=noah", "source=offline", "adapter=lora", "adapter.rank=4", "trainer.epochs=50"]
    [lora] = jobs.packs([*TINY, *words])
    part = estimate(lora, costs(train=1, setup=0), {"lora": (25, 6)})
    assert part.most == part.likely == 50 * 768 + 50 * 960  # 12 and 15 batches of 64


def test_training_again_takes_a_whole_schedule():
    [lora] = jobs.packs([*TINY, "trainer=cosine", "adapter=lora", "adapter.rank=4", "trainer.epochs=50", "trainer.fixed_length=false"])
    part = estimate(lora, costs(train=1, setup=0), {"lora": (25, 6)})
    assert (part.most, part.likely) == (50 * 768 + 50 * 960, 25 * 768 + 50 * 960)


def test_parts_add_up():
    assert Part(1, 2, 3, 4.0, 5.0, 6) + Part(1, 1, 1, 1.0, 1.0, 1) == Part(2, 3, 4, 5.0, 6.0, 7)


def test_done_runs_are_not_planned_again(tmp_path, monkeypatch):
    monkeypatch.setattr(forecast, "measured", lambda packs: {forecast.kind(runs[0]): (runs[0], costs()) for runs in packs})
    packs = jobs.packs([*TINY, "adapter=lora,vera", "seed=[0,1]", f"results={tmp_path}"])
    lines = describe(packs)
    assert lines[0] == "4 runs in 2 packs: 0 done, 4 to do in 2 packs"
    assert not any("hours as before" in line for line in lines)
    for pack in packs:
        path = row_path(pack[0])
        path.parent.mkdir(parents=True)
        path.write_text("{}")  # whether it is whole is the run's question
    lines = describe(packs)
    assert lines[0] == "4 runs in 2 packs: 2 done, 2 to do in 2 packs"
    assert [line.split(" has ")[0] for line in lines[-2:]] == [f"Not read: {row_path(pack[0])}" for pack in packs]  # and it goes on
    for run in packs[0] + packs[1]:
        row_path(run).write_text("{}")
    lines = describe(packs)
    assert lines[0] == "4 runs in 2 packs: 4 done, 0 to do in 0 packs" and not any("steps" in line for line in lines)
