"""Builds a W&B workspace and a report for a project that `logger=wandb` has logged to: accuracy, ACE, cost and PVeRA's sigma.

    python scripts/wandb_dashboard.py PROJECT [--entity TEAM]

Needs a key of W&B and the package wandb-workspaces: pip install -e '.[dashboard]'. Each call makes a new view and a new report.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from pvera.errors import UserError
from pvera.loggers.wandb import has_key

TITLE = "Adapters on VTAB-1k: accuracy, calibration and cost"
CAPTION = "Each bar is the mean over the runs of one task and adapter, seeds and settings together; the summary of a run is its row."


def panels() -> dict[str, list[Any]]:
    """The panels by section. Figures of the test are in a run's summary, those of the training in its history."""
    from wandb_workspaces.reports import v2 as report

    def bars(figure: str, title: str) -> Any:
        return report.BarPlot(title=title, metrics=[report.SummaryMetric(figure)], max_runs_to_show=1000, max_bars_to_show=200)

    def against_parameters(figure: str, title: str, best: str) -> Any:
        line: Any = {f"running_y{best}": True}
        return report.ScatterPlot(title=title, x=report.SummaryMetric("adapter_params"), y=report.SummaryMetric(figure), log_x=True, **line)

    def curves(name: str, title: str) -> Any:
        # By a pattern: a run with a grid has a curve for each of its points (name/lr=0.001).
        return report.LinePlot(title=title, x="epoch", metric_regex=f"^{name}", max_runs_to_show=100)

    return {
        "Accuracy by task and adapter": [bars("test_acc", "Test accuracy")],
        "Calibration by task and adapter": [bars("test_ace", "Adaptive calibration error"), bars("test_ece", "Expected calibration error")],
        "Pareto: trained parameters against accuracy and calibration (the line: the best so far)": [
            against_parameters("test_acc", "Accuracy", "max"),
            against_parameters("test_ace", "Adaptive calibration error", "min"),
        ],
        "PVeRA's latent": [curves("sigma", "sigma"), curves("kl", "KL to N(0, 1)"), curves("mu", "mu")],
        "Training": [
            curves("val_loss", "Validation loss"),
            curves("val_acc", "Validation accuracy"),
            curves("cross_entropy", "Training loss"),
        ],
    }


def workspace(project: str, entity: str) -> Any:
    """The saved view: every panel over the runs grouped by task and adapter."""
    from wandb_workspaces import expr, workspaces

    sections = [workspaces.Section(name=name, panels=found, is_open=True) for name, found in panels().items()]
    grouped = workspaces.RunsetSettings(groupby=[expr.Config("task"), expr.Metric("JobType")])
    return workspaces.Workspace(entity=entity, project=project, name=TITLE, sections=sections, runset_settings=grouped)


def report(project: str, entity: str) -> Any:
    """The report: bars over groups of runs, and everything else run by run."""
    from wandb_workspaces.reports import v2

    blocks: list[Any] = [v2.P(CAPTION)]
    for name, found in panels().items():
        groupby = ["config.task", "JobType"] if all(isinstance(panel, v2.BarPlot) for panel in found) else []
        blocks += [v2.H2(name), v2.PanelGrid(runsets=[v2.Runset(name="all runs", groupby=groupby)], panels=found)]
    return v2.Report(entity=entity, project=project, title=TITLE, description=CAPTION, blocks=blocks, width="fluid")


def save(project: str, entity: str | None) -> list[str]:
    """Sends both to W&B; returns their addresses. The entity is the key's own where none is named."""
    os.environ.setdefault("WANDB_SILENT", "true")  # this command says what there is to say
    import wandb
    import wandb_workspaces.workspaces  # noqa: F401  a package that is missing shows before the network is asked

    team = wandb.Api(timeout=30).default_entity  # asked in any case: it tells whether the server answers and takes the key
    team = entity or team or ""
    return [made(project, team).save().url for made in (workspace, report)]


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python scripts/wandb_dashboard.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("project", metavar="PROJECT", help="as in logger.wandb.project (pvera by default)")
    parser.add_argument("--entity", metavar="TEAM", help="team or user that the project belongs to (default: the key's own)")
    options = parser.parse_args(arguments)
    try:
        if not has_key():
            raise UserError("no key of W&B: run `wandb login` or set WANDB_API_KEY; a dashboard is made on its server and nowhere else")
        addresses = save(options.project, options.entity)
    except ImportError as error:
        return refuse(f"{error}: pip install -e '.[dashboard]'")
    except UserError as error:
        return refuse(str(error))
    except Exception as error:  # whatever the library, its HTTP client or the server answers
        return refuse(f"W&B did not take the dashboard of {options.project}: {type(error).__name__}: {error}")
    print(*addresses, sep="\n")
    return 0


def refuse(message: str) -> int:
    print(f"pvera: {' '.join(message.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
