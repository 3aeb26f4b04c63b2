"""`python -m scripts.benchmarks [NAME ...]`: measures, and writes results/benchmarks/<out>.json and .md."""

import argparse
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pvera  # noqa: F401  (before timm and torchvision)
from pvera.rows import provenance


def main(arguments: list[str] | None = None) -> int:
    """Measures the figures that are named, or all that take minutes."""
    from scripts.benchmarks.accuracy import accuracy
    from scripts.benchmarks.figures import FIGURES, Figure
    from scripts.benchmarks.timing import machine

    parser = argparse.ArgumentParser(prog="python -m scripts.benchmarks", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FIGURES)} (the default: all of these), or accuracy")
    parser.add_argument("--out", type=Path, help="writes OUT.json and OUT.md too")
    options = parser.parse_args(arguments)
    known = FIGURES | {"accuracy": accuracy}
    if unknown := sorted(set(options.names) - known.keys()):
        print(f"pvera: there is no benchmark {unknown[0]!r}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    found: list[Figure] = []
    for name in options.names or FIGURES:
        for figure in known[name]():
            found.append(figure)
            print(line(figure), flush=True)
    about = {
        "machine": machine(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": str(provenance.provenance()["git_commit"]),
    }
    about["command"] = " ".join(["python -m scripts.benchmarks", *options.names])
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.with_suffix(".json").write_text(json.dumps(about | {"figures": [asdict(one) for one in found]}, indent=1) + "\n")
        options.out.with_suffix(".md").write_text(table(about, found, speed=bool(FIGURES.keys() & (options.names or FIGURES))))
    return 0


def line(figure) -> str:
    """A figure as a row of the markdown table."""
    sign = "<=" if figure.upper else ">="
    aim = "" if figure.goal is None else f"{sign} {figure.goal:g} {figure.unit}: {'reached' if figure.reached else 'not reached'}"
    return f"| {figure.what} | {figure.against} | {figure.value:.3g} {figure.unit} | {aim} | {figure.detail} |"


def table(about: dict[str, str], figures: list, speed: bool) -> str:
    """The figures in markdown, under what they were measured on; those of `speed` have a setting in common."""
    head = f"`{about['command']}` at {about['commit'][:12]}, {about['date'][:10]}: {about['machine']}.\n"
    common = "ViT-S/14 with random weights, 224 px, batch 16, PVeRA r = 256 unless said otherwise; medians of five alternating rounds.\n\n"
    columns = "| figure | against | measured | goal | detail |\n| -- | -- | -- | -- | -- |\n"
    return f"{head}\n{common if speed else ''}{columns}" + "".join(line(figure) + "\n" for figure in figures)


if __name__ == "__main__":
    sys.exit(main())
