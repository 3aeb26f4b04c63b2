"""Builds a W&B workspace and a report for a project that `logger=wandb` has logged to: test metrics, cost and PVeRA's sigma.

    python scripts/wandb_dashboard.py PROJECT [--entity TEAM]

Needs a key of W&B and the package wandb-workspaces: pip install -e '.[dashboard]'. Each call makes a new view and a new report.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from pvera import command
from pvera.errors import UserError
from pvera.loggers.wandb import has_key
from pvera.metrics.table import METRICS, Metric

TITLE = "Adapters on VTAB-1k: accuracy, calibration and cost"
CAPTION = "Each bar is the mean over the runs of one task and adapter, seeds and settings together; the summary of a run is its row."


def panels() -> dict[str, list[Any]]:
    """The panels by section. Test metrics are in a run's summary, the values of training in its history."""
    from wandb_workspaces.reports import v2 as report

    def bars(metric: Metric) -> Any:
        summary = report.SummaryMetric(f"test_{metric.name}")
        return report.BarPlot(title=f"Test {metric.label}", metrics=[summary], max_runs_to_show=1000, max_bars_to_show=200)

    def against_parameters(metric: Metric) -> Any:
        best: Any = {"running_ymax" if metric.higher_is_better else "running_ymin": True}
        parameters, summary = report.SummaryMetric("adapter_params"), report.SummaryMetric(f"test_{metric.name}")
        return report.ScatterPlot(title=f"Test {metric.label}", x=parameters, y=summary, log_x=True, **best)

    def curves(name: str, title: str) -> Any:
        # By a pattern: a run with a grid has a curve for each of its points (name/lr=0.001).
        return report.LinePlot(title=title, x="epoch", metric_regex=f"^{name}", max_runs_to_show=100)

    return {
        "Test metrics by task and adapter": [bars(metric) for metric in METRICS.values()],
        "Pareto: trained parameters against test metrics (the line: the best so far)": [
            against_parameters(metric) for metric in METRICS.values()
        ],
        "PVeRA's latent": [curves("sigma", "sigma"), curves("kl", "KL to N(0, 1)"), curves("mu", "mu")],
        "Training": [
            curves("val_loss", "Validation loss"),
            curves("val_acc", "Validation accuracy"),
            curves("cross_entropy", "Training loss"),
        ],
    }


def workspace(project: str, entity: str) -> Any:
    """The saved view: all panels over the runs, grouped by task and adapter."""
    from wandb_workspaces import expr, workspaces

    sections = [workspaces.Section(name=name, panels=of_section, is_open=True) for name, of_section in panels().items()]
    grouped = workspaces.RunsetSettings(groupby=[expr.Config("task"), expr.Metric("JobType")])
    return workspaces.Workspace(entity=entity, project=project, name=TITLE, sections=sections, runset_settings=grouped)


def report(project: str, entity: str) -> Any:
    """The report: bars over groups of runs, and all other panels run by run."""
    from wandb_workspaces.reports import v2

    blocks: list[Any] = [v2.P(CAPTION)]
    for name, of_section in panels().items():
        groupby = ["config.task", "JobType"] if all(isinstance(panel, v2.BarPlot) for panel in of_section) else []
        blocks += [v2.H2(name), v2.PanelGrid(runsets=[v2.Runset(name="all runs", groupby=groupby)], panels=of_section)]
    return v2.Report(entity=entity, project=project, title=TITLE, description=CAPTION, blocks=blocks, width="fluid")


def save(project: str, entity: str | None) -> list[str]:
    """Sends both to W&B; returns their addresses. Without an entity they go to the user of the key."""
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb
    import wandb_workspaces.workspaces  # noqa: F401  a missing package shows before the network is used

    team = wandb.Api(timeout=30).default_entity  # in any case: it shows whether the server answers and accepts the key
    team = entity or team or ""
    return [made(project, team).save().url for made in (workspace, report)]


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python scripts/wandb_dashboard.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("project", metavar="PROJECT", help="as in logger.wandb.project (pvera by default)")
    parser.add_argument("--entity", metavar="TEAM", help="team or user that the project belongs to (default: the key's own)")
    return command.run(parser, _dashboard, arguments)


def _dashboard(options: argparse.Namespace) -> None:
    if not has_key():
        raise UserError("no key of W&B: run `wandb login` or set WANDB_API_KEY; a dashboard is made on its server and nowhere else")
    try:
        print(*save(options.project, options.entity), sep="\n")
    except ImportError as error:
        raise UserError(f"{error}: pip install -e '.[dashboard]'") from error
    except Exception as error:  # whatever the library, its HTTP client or the server answers
        raise UserError(f"W&B did not take the dashboard of {options.project}: {type(error).__name__}: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
