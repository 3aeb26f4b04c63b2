"""The W&B dashboard as far as it goes without a server: what it is made of, and what it says where it cannot be sent."""

import json
import re
import sys
from pathlib import Path

import pytest

from pvera.metrics.table import METRICS
from tests.helpers.watched import values

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import wandb_dashboard  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the library's own


def of_kind(tree, kind: str) -> list[dict]:
    """The configurations of all panels of a kind, anywhere in what is sent."""
    if isinstance(tree, list):
        return [found for part in tree for found in of_kind(part, kind)]
    if not isinstance(tree, dict):
        return []
    own = [tree["config"]] if tree.get("viewType") == kind else []
    return own + [found for part in tree.values() for found in of_kind(part, kind)]


@pytest.fixture(params=["workspace", "report"])
def sent(request):
    """What would be sent: the library's own serialisation, which needs no server."""
    made = getattr(wandb_dashboard, request.param)("mine", "team")
    return json.loads(made._to_model().model_dump_json(by_alias=True, exclude_none=True))


def test_everything_it_draws_is_logged(sent):
    history = values(1, 0).keys()
    bars = [name.removeprefix("summary_metrics.") for panel in of_kind(sent, "Bar Chart") for name in panel["metrics"]]
    assert bars == [f"test_{name}" for name in METRICS]
    points = [(panel["xAxis"], panel["yAxis"], panel["xAxisLogScale"]) for panel in of_kind(sent, "Scatter Plot")]
    assert points == [("summary:adapter_params", f"summary:test_{name}", True) for name in METRICS]
    curves = [panel["metricRegex"] for panel in of_kind(sent, "Run History Line Plot")]
    for name in ("sigma", "kl", "val_loss", "val_acc", "cross_entropy"):
        assert name in history
        assert sum(bool(re.search(pattern, f"{name}/lr=0.01")) for pattern in curves) == 1
    assert {panel["xAxis"] for panel in of_kind(sent, "Run History Line Plot")} == {"epoch"}


def test_accuracy_is_shown_by_task_and_adapter(sent):
    grouped = [{"section": "config", "name": "task.value"}, {"section": "run", "name": "jobType"}]  # the job type is the adapter
    assert json.dumps({"grouping": grouped})[1:-1] in json.dumps(sent)
    assert '"team"' in json.dumps(sent) and '"mine"' in json.dumps(sent)


def refused(capsys, *words: str) -> str:
    assert wandb_dashboard.main([*words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("pvera: ") and err.count("\n") == 1
    return err


def test_without_a_key_it_says_how_to_get_one(no_key, capsys):  # noqa: F811
    assert "run `wandb login` or set WANDB_API_KEY" in refused(capsys, "mine")


def test_without_the_package_it_says_how_to_get_it(no_key, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    for name in [name for name in sys.modules if name.startswith("wandb_workspaces")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert "pip install -e '.[dashboard]'" in refused(capsys, "mine")


def test_a_server_that_does_not_answer_is_one_line(no_key, capsys, monkeypatch):  # noqa: F811
    import wandb

    def refuse(**arguments):
        raise ConnectionError("no route\nto host")

    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setattr(wandb, "Api", refuse)
    assert "W&B did not take the dashboard of mine: ConnectionError: no route to host" in refused(capsys, "mine", "--entity", "team")
