"""A sweeper that searches, such as Optuna's, minimises the validation loss of single runs."""

import pytest
from hydra.errors import HydraException

from pvera.errors import UserError
from pvera.overrides import check_words
from pvera.rows import store
from pvera.sweeps.callback import is_grid
from pvera.sweeps.execute import Result, Results
from tests.helpers.command import run as run_command
from tests.helpers.rows import run

TINY = ["task=digits", "backbone=test_vit", "image_size=32", "adapter=linear_probe", "trainer=smoke", "trainer.epochs=1",
        "source.test_limit=20", "protocol.retrain=false"]  # fmt: skip


def test_the_objective_is_the_validation_loss_of_a_single_run(tmp_path):
    row = run()
    store.write(tmp_path / "seed=0-a.json", row)
    done = Result(tmp_path / "seed=0-a.json", new=True)
    assert float(Results([done])) == row.val_loss
    for several in ([], [done, done], [Result(tmp_path / "none.json", new=False)]):
        with pytest.raises(UserError, match="needs one finished run for each job"):
            float(Results(several))


def test_its_settings_may_be_set_and_its_class_may_not():
    check_words(["hydra/sweeper=optuna", "hydra.sweeper.n_trials=5", "hydra.sweeper.sampler.seed=1"])
    with pytest.raises((UserError, HydraException)):
        check_words(["hydra.sweeper.storage=sqlite:///x"])
    assert is_grid("hydra._internal.core_plugins.basic_sweeper.BasicSweeper")


def test_optuna_searches(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="pip install hydra-optuna-sweeper==1.3.0")
    words = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1", *TINY,
             "trainer.head_lr=tag(log,interval(1e-4,1e-2))",
             f"results={tmp_path / 'rows'}", f"hydra.sweep.dir={tmp_path / 'hydra'}"]  # fmt: skip
    done = run_command(*words)
    assert done.returncode == 0, done.stderr
    rows = store.read_all(tmp_path / "rows")
    assert len(rows) == 3 == done.stdout.count("linear_probe on digits")
    best = min(rows, key=lambda row: row.val_loss)
    assert f"{best.val_loss}" in (tmp_path / "hydra" / "optimization_results.yaml").read_text()
