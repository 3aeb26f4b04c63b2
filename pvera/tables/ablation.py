"""Results of the runs of an ablation, by the settings that differ between them.

A pure function of the rows and of the files next to them: the values of every epoch (logger=csv) and the reports of pvera.ood, where
there are any. The rows' configs tell which settings were varied. Imports no torch.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvera import storage
from pvera.errors import UserError
from pvera.loggers import csv as log
from pvera.metrics.table import METRICS, VALIDATION_ACCURACY
from pvera.rows import store
from pvera.rows.row import Row
from pvera.rows.row import label as label_of_point
from pvera.tables.grouping import Group, brief, config_of, differing, group_rows
from pvera.tables.render import Cell, parameters
from pvera.tables.section import description, without_commit
from pvera.text import Grid, markdown_table

EPOCH_VALUES = {"mean sigma": "sigma", "KL (nats)": "kl"}
"""Values of the csv logger that are shown for the epoch whose weights were kept, by label."""

IMAGES = "source.fingerprint"
"""The setting that identifies the images of a run."""


@dataclass
class Setting:
    """One value of the varied settings: its runs, their results by label, and their validation losses by epoch."""

    values: dict[str, Any]
    rows: list[Row]
    results: dict[str, list[float]]
    curves: list[list[float]]

    def label(self) -> str:
        """The value; of several settings with their names."""
        texts = {name: text(value) for name, value in self.values.items()}
        return ", ".join(f"{name}={value}" for name, value in texts.items()) if len(texts) > 1 else next(iter(texts.values()))

    def over_seeds(self, label: str) -> Cell | None:
        """A result over the seeds; None, a hole, if a run lacks it."""
        values = self.results.get(label, [])
        return Cell.of(values) if len(values) == len(self.rows) else None


@dataclass
class Ablation:
    """The settings of the runs of one group and task, in their order."""

    group: Group
    settings: list[Setting]

    @property
    def task(self) -> str:
        return self.group.rows[0].task

    @property
    def names(self) -> list[str]:
        """The settings that were varied."""
        return list(self.settings[0].values)

    @property
    def labels(self) -> list[str]:
        """The labels of the results that any setting has, those of the rows first."""
        return list(dict.fromkeys(label for setting in self.settings for label in setting.results))


def text(value: Any) -> str:
    """A setting's value, short."""
    if isinstance(value, list):
        return " ".join(map(text, value))
    if isinstance(value, dict):
        return label_of_point(value)
    return f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)


def varied(rows: list[Row]) -> list[str]:
    """The names of the settings that differ between rows, except the seed and those that a task decides.

    The images count where nothing else tells two runs of one seed apart. A setting that a row lacks counts as null there. Between
    different adapters, only settings count that differ within an adapter. Empty if none differs.
    """
    settings_of = [settings(row) for row in rows]
    names = list(dict.fromkeys(name for values in settings_of for name in values))
    apart = differing(settings_of)
    found = [name for name in names if name in apart and name != IMAGES]
    if "adapter" in found:
        by_adapter = defaultdict(list)
        for values in settings_of:
            by_adapter[values["adapter"]].append(values)
        within = set[str]().union(*map(differing, by_adapter.values()))
        found = [name for name in found if name == "adapter" or name in within]
    # A setting that an adapter takes from its protocol differs in both.
    found = [name for name in found if not (name.startswith("protocol.") and name.removeprefix("protocol.") in found)]
    runs = {(row.seed, json.dumps([values.get(name) for name in found])) for row, values in zip(rows, settings_of, strict=True)}
    if IMAGES in apart and len(runs) < len({row.digest for row in rows}):
        found.append(IMAGES)
    return found


def settings(row: Row) -> dict[str, Any]:
    """The settings of a row by name, the adapter's own first and without a prefix; without those that a task or a seed decides."""
    values = {name: value for name, value in config_of(row).items() if not name.startswith(("seed", "task"))}
    if IMAGES in values:
        values[IMAGES] = brief(values[IMAGES])
    own = {name.removeprefix("adapter."): value for name, value in values.items() if name.startswith("adapter.")}
    own["adapter"] = own.pop("name", row.adapter)
    return own | {name: value for name, value in sorted(values.items(), key=lambda item: "." in item[0]) if not name.startswith("adapter.")}


def results_of_row(row: Row) -> dict[str, float]:
    """Validation loss, validation accuracy and test metrics by label, in their units."""
    validation = {"validation loss (nats)": row.val_loss, VALIDATION_ACCURACY.title: VALIDATION_ACCURACY.factor * row.val_acc}
    test = {f"test {metric.title}": metric.factor * row.test[name] for name, metric in METRICS.items() if name in row.test}
    return validation | test


def results_of_files(path: Path, row: Row, score: str) -> tuple[dict[str, float], list[float], list[str]]:
    """Results in the files next to a row, by label: values of the epoch that was kept, and of OOD reports; and the validation losses.

    The last list has an error for each of these files that cannot be read.
    """
    logs, errors = store.read_each([path.with_suffix(".csv")], lambda file: _of_log(file, row))
    reports, unread = store.read_each(sorted(path.parent.glob(f"ood-{path.stem}-*.json")), lambda file: _of_report(file, score))
    [(results, losses)] = logs.values() or [({}, [])]
    for report in reports.values():
        results |= report
    return results, losses, errors + unread


def _of_log(file: Path, row: Row) -> tuple[dict[str, float], list[float]]:
    results: dict[str, float] = {}
    lines = [line for line in log.of_chosen(file, row.chosen) if line.get("val_loss")]
    try:
        losses = [float(line["val_loss"]) for line in lines]
        for line in lines:
            if int(line["epoch"]) == row.best_epoch:
                results |= {label: float(line[name]) for label, name in EPOCH_VALUES.items() if line.get(name)}
    except ValueError as error:
        raise UserError(f"{file} is not a log of epochs: {error}") from None
    return results, losses


def _of_report(file: Path, score: str) -> dict[str, float]:
    report = storage.read_object(file, "report of pvera.ood") or {}
    try:
        known = score in report["scores"]
        return {f"AUROC of {score}, {report['foreign']}": float(report["scores"][score]["auroc"])} if known else {}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not a report of pvera.ood: {' '.join(str(error).split())}") from None


def ablations(files: dict[Path, Row], score: str) -> tuple[list[Ablation], list[str]]:
    """The ablation of each task and group of rows, and a message for each thing that is left out.

    Left out are files next to the rows that cannot be read, and groups whose rows differ in nothing but the seed. Raises UserError if
    there is no other group. `score` names the score of OOD reports that is shown.
    """
    beside, errors = {}, []
    for path, row in files.items():
        results, losses, unread = results_of_files(path, row, score)
        beside[id(row)] = results, losses
        errors += unread
    shown, alike = [], []
    for task in sorted({row.task for row in files.values()}):
        for group in group_rows(row for row in files.values() if row.task == task):
            if names := varied(group.rows):
                shown.append(Ablation(group, _settings(group.rows, names, beside)))
            else:
                alike.append(f"{len(group.rows)} rows of {task} differ in nothing but the seed")
    if alike and not shown:
        raise UserError(f"{'; '.join(alike)}: an ablation needs runs of at least two values of a setting")
    return shown, errors + [f"{said}, so they are left out" for said in alike]


def _settings(rows: list[Row], names: list[str], beside: dict[int, tuple[dict[str, float], list[float]]]) -> list[Setting]:
    """The settings of the rows of one group and task, in the order of the values of `names`.

    `beside` has the results of files by the row's id.
    """
    by_values = defaultdict(list)
    for row in {row.digest: row for row in rows}.values():  # a copy of a row is no other run
        values = settings(row)
        by_values[json.dumps([values.get(name) for name in names])].append(row)
    made = []
    for key, members in by_values.items():
        results: dict[str, list[float]] = defaultdict(list)
        curves = []
        for row in sorted(members, key=lambda row: row.seed):
            of_files, losses = beside[id(row)]
            for label, value in (results_of_row(row) | of_files).items():
                results[label].append(value)
            curves.append(losses)
        made.append(Setting(dict(zip(names, json.loads(key), strict=True)), members, results, curves))
    return sorted(made, key=lambda setting: [order(value) for value in setting.values.values()])


def order(value: Any) -> tuple[int, float, str]:
    """Sorts the values of settings: numbers by size, then lists by length, then words; null comes last."""
    if isinstance(value, bool | int | float):
        return 0, value, ""
    return (3, 0, "") if value is None else (1, len(value), str(value)) if isinstance(value, list) else (2, 0, value)


def markdown(ablation: Ablation) -> str:
    """The table and its caption; an empty cell is a hole."""
    grid: Grid = [[*ablation.names, "parameters", *ablation.labels]]
    for setting in ablation.settings:
        cells = [setting.over_seeds(label) for label in ablation.labels]
        texts = ["" if cell is None else f"{cell.mean:.4g}" + ("" if cell.std is None else f" ± {cell.std:.2g}") for cell in cells]
        sizes = parameters(tuple(row.adapter_params for row in setting.rows))
        grid.append([*map(text, setting.values.values()), sizes, *texts])
    seeds = sorted({len(setting.rows) for setting in ablation.settings})
    spread = "One seed" if seeds == [1] else f"Mean ± sample standard deviation over {' or '.join(map(str, seeds))} seeds"
    rows = ablation.group.rows
    subject = "Adapters" if "adapter" in ablation.names else rows[0].adapter
    caption = [
        *description(ablation.group),
        f"{subject} on {ablation.task}. {spread}.",
        *(f"{phrase}." for phrase in without_commit(rows, "runs")),
    ]
    return "\n".join([markdown_table(grid), "", *caption, ""])


def tidy(ablation: Ablation) -> Iterator[list[str]]:
    """Lines of task, setting, result, mean, standard deviation (empty for one seed) and number of seeds."""
    for setting in ablation.settings:
        for label in ablation.labels:
            if (cell := setting.over_seeds(label)) is not None:
                mean, std = f"{cell.mean:.9g}", "" if cell.std is None else f"{cell.std:.9g}"
                yield [ablation.task, setting.label(), label, mean, std, str(len(setting.rows))]
