"""The command: the forecast or the states of the runs, and mistakes in one line."""

import pytest

from pvera.plan import main
from pvera.sweeps import forecast
from tests.helpers.tiny import DIGITS

TINY = [*DIGITS, "trainer.epochs=2"]


def test_the_forecast_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(forecast, "describe", lambda packs: [f"{len(packs)} packs of {len(packs[0])} runs"])
    assert main(["-m", *TINY, "adapter=lora,vera", "seed=[0,1]", f"results={tmp_path}"]) == 0
    assert capsys.readouterr().out == "2 packs of 2 runs\n"


def test_with_runs_each_run_is_a_line(tmp_path, capsys):
    assert main(["--runs", *TINY, "adapter=lora,vera", "seed=[0,1]", f"results={tmp_path}"]) == 0
    heading, *lines, last = capsys.readouterr().out.splitlines()
    assert heading.split() == ["task", "adapter", "backbone", "run", "state", "details"]
    assert [line.split()[:2] for line in lines] == [["digits", "lora"]] * 2 + [["digits", "vera"]] * 2
    assert last == "4 runs: 4 to do" and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["adapter=lroa"], "adapter/lroa"),
        (["trainer.epochs=0"], "trainer.epochs must be a whole number above 0"),
        (["task=dtd"], "source=offline holds"),
        (["nonsense"], "nonsense"),
    ],
)
def test_a_wrong_word_is_one_line(words, said, capsys):
    assert main([*TINY, *words]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and err.startswith("pvera: ")
