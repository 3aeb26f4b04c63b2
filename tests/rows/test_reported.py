"""The file of what other publications report: its rows, and what is refused."""

import csv

import pytest

from data.tasks import TASKS
from pvera.errors import UserError
from pvera.rows import reported


def texts() -> list[dict[str, str]]:
    with reported.PATH.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_committed_rows_are_whole_and_say_where_they_are_from():
    rows = reported.read()
    assert len(rows) == 90 and len({(row.source, row.backbone, row.method) for row in rows}) == 90
    assert sorted(len(row.accuracies) for row in rows) == [0, 0, 1] + 87 * [19]
    assert all(row.source and row.backbone and row.method and row.caveat for row in rows)
    assert [(row.method, row.average) for row in rows if row.average is not None] == [("PVeRA", 71.4), ("VeRA", 69.9)]
    original, augreg = "vit_base_patch16_224.orig_in21k", "vit_base_patch16_224.augreg_in21k"
    named = {row.method.split()[0] for row in rows if row.checkpoint == original}
    assert {"VPT-Deep", "NOAH", "FacT", "Convpass", "RepAdapter", "Adapter", "vpt_deep", "convpass"} <= named
    assert {row.method for row in rows if row.checkpoint == augreg} == {"SSF", "GPS"}
    assert {row.checkpoint for row in rows} - {original, augreg} == {"", "vit_base_patch14_dinov2.lvd142m"}
    for row in rows:
        assert ("best test" in row.caveat.lower()) >= ("best TEST" in row.method)


@pytest.mark.data
def test_every_number_is_the_one_that_was_collected(shared):
    file = shared / "spec" / "reported.csv"
    if not file.is_file():
        pytest.skip(f"no {file}")

    def numbers(row, cifar, params, average):
        figures = [row[cifar if task == "cifar100" else task] for task in TASKS]
        return [row[params], *figures, "" if any(figures) else row[average]]

    with file.open(encoding="utf-8") as opened:
        collected = sorted(numbers(row, "cifar", "params_M", "avg") for row in csv.DictReader(opened))
    assert sorted(numbers(row, "cifar100", "params_m", "reported_avg") for row in texts()) == collected


def line(**changes) -> str:
    fields = dict.fromkeys(reported.HEADER, "") | {"source": "a", "backbone": "b", "method": "c", "dtd": "50"}
    return ",".join((fields | changes).values())


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["a,b"], "its columns must be source,backbone,checkpoint,method"),
        ([], "its columns must be"),
        ([",".join(reported.HEADER), line(), line(dtd="5O")], "line 3: dtd must be a number in 0 .. 100, found '5O'"),
        ([",".join(reported.HEADER), line(dtd="nan")], "line 2: dtd must be"),
        ([",".join(reported.HEADER), line(dtd="100.5")], "line 2: dtd must be"),
        ([",".join(reported.HEADER), line(params_m="-1")], "line 2: params_m must be"),
        ([",".join(reported.HEADER), line(reported_avg="71")], "line 2: must have accuracies of tasks or else reported_avg"),
        ([",".join(reported.HEADER), line(dtd="")], "line 2: must have accuracies of tasks or else reported_avg"),
        ([",".join(reported.HEADER), "a,b,c"], "line 2: must have 26 fields"),
        ([",".join(reported.HEADER), line() + ",more"], "line 2: must have 26 fields"),
    ],
)
def test_a_broken_file_is_one_line_that_names_it(tmp_path, lines, said):
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(UserError) as caught:
        reported.read(path)
    assert str(caught.value).startswith(str(path)) and said in str(caught.value) and "\n" not in str(caught.value)


def test_no_file_and_no_text_are_one_line(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        reported.read(tmp_path / "absent.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not a csv file in UTF-8"):
        reported.read(tmp_path / "bytes.csv")
