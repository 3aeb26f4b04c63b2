"""What a setting does: `python -m pvera.ablation DIR` writes DIR/ablation.csv, .md and plots of the rows below DIR against what differs.

A pure function of the rows and of what stands beside them: the figures of every epoch (logger=csv) and, where pvera.ood was run, its
reports. What was varied is found from the rows' configs. Imports no torch.
"""

import argparse
import csv
import io
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from pvera import storage
from pvera.errors import MISTAKES, UserError
from pvera.loggers import csv as log
from pvera.rows import store
from pvera.rows.row import Row
from pvera.tables.grouping import SEPARATE, asked
from pvera.tables.section import admit, kind

SCORE = "norm of mu"
#: Figures of a row's own, by label with the unit, and the factor to that unit.
OF_ROWS = {"validation accuracy (%)": ("val_acc", 100), "test accuracy (%)": ("test_acc", 100), "test ACE (%)": ("test_ace", 100),
           "test NLL (nats)": ("test_nll", 1)}  # fmt: skip
#: Figures of the csv logger, of the epoch whose weights were kept.
OF_EPOCHS = {"mean sigma": "sigma", "KL (nats)": "kl"}


@dataclass
class Setting:
    """One value of what was varied: its runs by seed, their figures by label, and their validation losses by epoch."""

    values: dict[str, Any]
    rows: list[Row]
    figures: dict[str, list[float]]
    curves: list[list[float]]

    def label(self) -> str:
        """The value; of several settings with their names."""
        texts = {name: text(value) for name, value in self.values.items()}
        return ", ".join(f"{name}={value}" for name, value in texts.items()) if len(texts) > 1 else next(iter(texts.values()))

    def over_seeds(self, label: str) -> tuple[float, float | None] | None:
        """Mean and sample standard deviation (None for one seed); None without a figure of each run."""
        values = self.figures.get(label, [])
        if len(values) < len(self.rows):
            return None
        return fmean(values), stdev(values) if len(values) > 1 else None


def text(value: Any) -> str:
    """A setting's value, short."""
    if isinstance(value, list):
        return " ".join(map(text, value))
    return f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)


def varied(rows: list[Row]) -> list[str]:
    """The names of the settings that differ between rows, the seed and what a task decides apart.

    Of different adapters, only what they have in common and what the adapter's name does not tell. Raises UserError if none differs.
    """
    flats = [settings(row) for row in rows]
    names = [name for name in flats[0] if all(name in flat for flat in flats)]
    differing = [name for name in names if len({json.dumps(flat[name]) for flat in flats}) > 1]
    if "adapter" in differing:
        by_adapter = defaultdict(list)
        for flat in flats:
            by_adapter[flat["adapter"]].append(flat)
        differing = [
            name for name in differing
            if name == "adapter" or any(len({json.dumps(flat[name]) for flat in mine}) > 1 for mine in by_adapter.values())
        ]  # fmt: skip
    # What an adapter takes from its protocol differs in both.
    differing = [name for name in differing if not (name.startswith("protocol.") and name.removeprefix("protocol.") in differing)]
    if not differing:
        raise UserError(
            f"{len(rows)} rows of {rows[0].task} differ in nothing but the seed: an ablation needs runs of at least two values of a setting"
        )
    return differing


def settings(row: Row) -> dict[str, Any]:
    """The settings of a row by name, the adapter's own first and without a prefix; without what a task or a seed decides."""
    found = {name: value for name, value in asked(row).items() if name not in ("seed", "task", "source.fingerprint")}
    own = {name.removeprefix("adapter."): value for name, value in found.items() if name.startswith("adapter.")}
    own["adapter"] = own.pop("name", row.adapter)
    return own | {name: value for name, value in sorted(found.items(), key=lambda item: "." in item[0]) if not name.startswith("adapter.")}


def beside(path: Path, row: Row, score: str) -> tuple[dict[str, float], list[float]]:
    """What stands beside a row: figures of the epoch that was kept and of the OOD reports, by label; and the validation losses."""
    found: dict[str, float] = {}
    place = path.with_suffix(".csv")
    lines = [line for line in log.of_chosen(place, row) if line.get("val_loss")]
    try:
        losses = [float(line["val_loss"]) for line in lines]
        for line in lines:
            if int(line["epoch"]) == row.best_epoch:
                found |= {label: float(line[name]) for label, name in OF_EPOCHS.items() if line.get(name)}
    except ValueError as error:
        raise UserError(f"{place} is not a log of epochs: {error}") from None
    for report in sorted(path.parent.glob(f"ood-{path.stem}-*.json")):
        try:
            values = json.loads(report.read_text(encoding="utf-8"))
            if score in values["scores"]:
                found[f"AUROC of {score}, {values['foreign']}"] = float(values["scores"][score]["auroc"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{report} is not a report of pvera.ood: {' '.join(str(error).split())}") from None
    return found, losses


def sections(found: list[tuple[Path, Row]], score: str) -> Iterator[tuple[list[Row], list[Setting]]]:
    """The settings of each set of comparable rows of one task, in their order."""
    comparable = defaultdict(list)
    for path, row in found:
        comparable[tuple(getattr(row, name) for name in ("task", *SEPARATE))].append((path, row))
    for _, members in sorted(comparable.items(), key=lambda item: item[0]):
        names, groups = varied([row for _, row in members]), defaultdict(list)
        for path, row in members:
            values = settings(row)
            groups[json.dumps([values.get(name) for name in names])].append((path, row))
        made = []
        for key, runs in groups.items():
            figures: dict[str, list[float]] = defaultdict(list)
            curves = []
            for path, row in sorted(runs, key=lambda run: run[1].seed):
                own = {label: factor * getattr(row, name) for label, (name, factor) in OF_ROWS.items()}
                more, losses = beside(path, row, score)
                for label, value in (own | more).items():
                    figures[label].append(value)
                curves.append(losses)
            made.append(Setting(dict(zip(names, json.loads(key), strict=True)), [row for _, row in runs], figures, curves))
        yield [row for _, row in members], sorted(made, key=lambda setting: [_order(value) for value in setting.values.values()])


def _order(value: Any) -> tuple:
    """Numbers by size, then lists by length, then words; what is not set comes last."""
    if isinstance(value, bool | int | float):
        return 0, value, ""
    return (3, 0, "") if value is None else (1, len(value), str(value)) if isinstance(value, list) else (2, 0, value)


def labels(made: list[Setting]) -> list[str]:
    """The figures that any setting has, those of the rows first."""
    return list(dict.fromkeys(label for setting in made for label in setting.figures))


def markdown(rows: list[Row], made: list[Setting]) -> str:
    """The table and its caption; an empty cell where a run of the setting lacks the figure."""
    header = [*made[0].values, "parameters", *labels(made)]
    lines = [header, ["--"] * len(header)]
    for one in made:
        cells = [one.over_seeds(label) for label in labels(made)]
        texts = ["" if cell is None else f"{cell[0]:.4g}" + ("" if cell[1] is None else f" ± {cell[1]:.2g}") for cell in cells]
        lines.append([*map(text, one.values.values()), f"{one.rows[0].adapter_params:,}", *texts])
    seeds = sorted({len(one.rows) for one in made})
    spread = "One seed" if seeds == [1] else f"Mean ± sample standard deviation over {' or '.join(map(str, seeds))} seeds"
    caption = [*kind(rows), f"{rows[0].adapter if 'adapter' not in made[0].values else 'Adapters'} on {rows[0].task}. {spread}."]
    if dirty := sum(row.git_dirty for row in rows):
        caption.append(f"{dirty} of {len(rows)} runs were made by uncommitted code.")
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", *caption, ""])


def tidy(made: list[Setting]) -> Iterator[list[str]]:
    """Lines of task, settings, figure, mean, standard deviation (empty for one seed) and number of seeds."""
    for one in made:
        for label in labels(made):
            if (cell := one.over_seeds(label)) is not None:
                mean, std = f"{cell[0]:.9g}", "" if cell[1] is None else f"{cell[1]:.9g}"
                yield [one.rows[0].task, one.label(), label, mean, std, str(len(one.rows))]


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m pvera.ablation", description="Table and plot the rows below a folder by what differs.")
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder with the rows of an ablation, as results/ablation/rank")
    parser.add_argument("--score", default=SCORE, help=f"which score of the OOD reports beside the rows is shown (default: {SCORE})")
    parser.add_argument("--allow-limited", action="store_true", help="take shortened runs too, marked")
    parser.add_argument("--allow-dirty", action="store_true", help="take runs of uncommitted code too, marked")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where table and plots go (default: the folder itself)")
    options = parser.parse_args(arguments)
    out = options.out or options.folder
    from pvera.tables.ablation_plots import draw

    try:
        rows = store.read_all(options.folder)
        storage.ensure_writable(out)
        admit(rows, options.folder, options.allow_limited, options.allow_dirty)
        paths = sorted(options.folder.rglob("seed=*.json"))
        parts, lines = [], [["task", "setting", "figure", "mean", "std", "seeds"]]
        for number, (members, made) in enumerate(sections(list(zip(paths, rows, strict=True)), options.score)):
            parts.append(markdown(members, made))
            lines += tidy(made)
            draw(made, options.score, out / f"ablation-{members[0].task}{f'-{number}' if number else ''}")
        written = io.StringIO()
        csv.writer(written, lineterminator="\n").writerows(lines)
        storage.write_atomically(out / "ablation.csv", written.getvalue().encode())
        storage.write_atomically(out / "ablation.md", "\n".join(parts).encode())
    except MISTAKES as error:
        print(f"pvera: {error}", file=sys.stderr)
        return 2
    print("\n".join(parts), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
