"""What a sweep says on a terminal while it runs, and at its end; elsewhere it says results alone (see test_run)."""

import os
import re
import select
from pathlib import Path

from hydra import compose, initialize_config_module

from pvera.config import register, to_runs
from pvera.rows import digests, store
from pvera.sweeps.execute import row_path
from tests.helpers.command import Command
from tests.helpers.rows import make_row


def test_a_sweep_tells_how_it_stands_on_a_terminal_and_sums_up(tmp_path):
    words = ["adapter=linear_probe", "task=extra/digits", "backbone=test_vit", "trainer=smoke", "trainer.epochs=1", "image_size=32",
             "trainer.batch_size=400", "source.test_limit=50", "protocol.retrain=false", f"results={tmp_path}"]  # fmt: skip
    register()
    with initialize_config_module("configs", version_base="1.3"):
        [run] = to_runs(compose("config", overrides=[*words, "seed=1"]))
    store.write(row_path(run), make_row(config=run.settings(), digest=digests.digest(run.settings())))

    ours, theirs = os.openpty()
    told = Command("-m", *words, "seed=0,1,2", stderr=Path(os.ttyname(theirs)))
    shown = b""
    while told.poll() is None or select.select([ours], [], [], 0)[0]:
        if select.select([ours], [], [], 0.05)[0]:
            shown += os.read(ours, 4096)
    done = told.wait()
    assert done.returncode == 0
    said = [line for line in re.split(r"[\r\n]+", shown.decode()) if "skipped" in line]
    assert said[0] == "0 done, 1 skipped, 1 running, 1 left: linear_probe on digits, seed 0"
    assert re.fullmatch(r"1 done, 1 skipped, 1 running, 0 left, about 0:\d\d:\d\d left: linear_probe on digits, seed 2", said[1])
    assert len(said) == 2
    first, *each, last = done.stdout.splitlines()
    assert first == "3 runs: 1 done before, 2 to do"
    assert [line.split()[0] for line in each] == ["[2/3]", "[3/3]"]
    assert re.fullmatch(rf"2 done in 0:\d\d:\d\d, 1 skipped \(done before\); python -m pvera\.runs {tmp_path}", last)
