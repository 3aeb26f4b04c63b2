"""`--cell` names the rows behind a cell: which is shown, which are passed over and why, and what made them."""

from pvera import table
from pvera.rows import store
from tests.helpers.rows import keep, run


def test_a_cell_is_traced_to_its_rows_settings_commits_and_files(tmp_path, capsys):
    rows = [
        run(settings={"trainer": {"epochs": 3}}, val_loss=0.5, test_acc=0.1234, git_commit="a" * 40),
        run(settings={"trainer": {"epochs": 9}}, val_loss=0.7, test_acc=0.9, git_dirty=True),
        run(seed=1, val_loss=0.6),
        run("lora"),
    ]
    keep(tmp_path, rows)
    store.write(tmp_path / "copy" / "seed=0-copy.json", rows[0])
    assert table.main([str(tmp_path), "--cell", "pvera/dsprites_loc"]) == 0
    out = capsys.readouterr().out
    lines = [[text.strip() for text in line.strip("|").split("|")] for line in out.splitlines() if line.startswith("| ")][1:]
    assert [(line[0], line[1]) for line in lines] == [
        ("0", "yes"), ("0", "no: the same run again"), ("0", "no: higher validation loss"), ("1", "yes"),
    ]  # fmt: skip
    assert lines[0][3] == "12.3" and lines[0][5] == "a" * 10 and lines[2][5] == "0000000000 (dirty)"
    assert f"seed=0-{rows[0].digest[:8]}.json: trainer.epochs=3\n" in out and f"seed=0-{rows[1].digest[:8]}.json: trainer.epochs=9\n" in out
    assert "backbone.name=tiny" in out.splitlines()[-1] and "lora" not in out
    assert not list(tmp_path.glob("table*"))


def test_limited_rows_are_traced_apart(tmp_path, capsys):
    keep(tmp_path, [run(), run(settings={"x": 1}, limited=True, limited_reasons=["3 epochs"])])
    assert table.main([str(tmp_path), "--cell", "pvera/dsprites_loc"]) == 0
    out = capsys.readouterr().out
    assert out.count("pvera on dsprites_loc: ") == 2 and "Limited, so in a table only with --allow-limited: 3 epochs." in out


def test_a_bad_cell_is_one_line_that_lists_what_there_is(tmp_path, capsys):
    keep(tmp_path, [run(), run("lora", "kitti"), run("lora")])
    for asked in ("pvera/kitti", "pvera", "", "/"):
        assert table.main([str(tmp_path), "--cell", asked]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and "there are lora/{dsprites_loc,kitti}; pvera/{dsprites_loc}" in err
