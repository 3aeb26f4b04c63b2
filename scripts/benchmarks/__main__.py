"""`python -m scripts.benchmarks [NAME ...]`: measures, prints a table, and with --out writes OUT.json and OUT.md."""

import argparse
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pvera  # noqa: F401  (before timm and torchvision)
from pvera import command
from pvera.errors import UserError
from pvera.rows import provenance
from scripts.benchmarks.accuracy import accuracy
from scripts.benchmarks.bulk import bulk
from scripts.benchmarks.measurements import MEASUREMENTS, Measurement
from scripts.benchmarks.timing import machine

#: Those that take minutes. Accuracy takes longer.
USUAL = MEASUREMENTS | {"bulk": bulk}


def main(arguments: list[str] | None = None) -> int:
    """Takes the named measurements, or all that take minutes."""
    parser = argparse.ArgumentParser(prog="python -m scripts.benchmarks", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(USUAL)} (the default: all of these), or accuracy")
    parser.add_argument("--out", type=Path, help="writes OUT.json and OUT.md too")
    return command.run(parser, measure, arguments)


def measure(options: argparse.Namespace) -> None:
    known = USUAL | {"accuracy": accuracy}
    if unknown := sorted(set(options.names) - known.keys()):
        raise UserError(f"there is no benchmark {unknown[0]!r}; there are {', '.join(known)}")
    measurements: list[Measurement] = []
    for name in options.names or USUAL:
        for measurement in known[name]():
            measurements.append(measurement)
            print(line(measurement), flush=True)
    about = {
        "machine": machine(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": str(provenance.provenance()["git_commit"]),
        "command": " ".join(["python -m scripts.benchmarks", *options.names]),
    }
    if options.out:
        values = about | {"measurements": [asdict(measurement) for measurement in measurements]}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.with_suffix(".json").write_text(json.dumps(values, indent=1) + "\n")
        options.out.with_suffix(".md").write_text(table(about, measurements, speed=options.names != ["accuracy"]))


def line(measurement: Measurement) -> str:
    """A measurement as a row of the markdown table."""
    sign, goal, unit = "<=" if measurement.upper else ">=", measurement.goal, measurement.unit
    aim = "" if goal is None else f"{sign} {goal:g} {unit}: {'reached' if measurement.reached else 'not reached'}"
    return f"| {measurement.name} | {measurement.against} | {measurement.value:.3g} {unit} | {aim} | {measurement.detail} |"


def table(about: dict[str, str], measurements: list[Measurement], *, speed: bool) -> str:
    """The measurements in markdown, under the machine, the date and the commit; those of `speed` have settings in common."""
    head = f"`{about['command']}` at {about['commit'][:12]}, {about['date'][:10]}: {about['machine']}.\n"
    common = "ViT-S/14 with random weights, 224 px, batch 16, PVeRA r = 256 unless noted otherwise; medians of five alternating rounds.\n\n"
    columns = "| measurement | compared with | measured | goal | detail |\n| -- | -- | -- | -- | -- |\n"
    return f"{head}\n{common if speed else ''}{columns}" + "".join(line(measurement) + "\n" for measurement in measurements)


if __name__ == "__main__":
    sys.exit(main())
