"""`python -m pvera.ablation DIR`: writes DIR/ablation.csv, .md and plots of the rows below DIR by the settings that differ."""

import argparse
import sys

from pvera import command, storage
from pvera.evaluators.labelling import SCORES
from pvera.rows import store
from pvera.tables.ablation import ablations, markdown, tidy
from pvera.tables.section import admit
from pvera.text import csv_text

SCORE = "norm of mu"


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m pvera.ablation", description="Table and plot the rows below a folder by what differs.")
    parser.add_argument("folder", metavar="DIR", type=command.path, help="folder with the rows of an ablation, as results/ablation/rank")
    parser.add_argument("--score", default=SCORE, choices=SCORES, metavar="SCORE",
                        help=f"the score of OOD reports that is shown: {', '.join(SCORES)} (default: {SCORE})")  # fmt: skip
    parser.add_argument("--allow-limited", action="store_true", help="take shortened runs too, marked")
    parser.add_argument("--allow-dirty", action="store_true", help="take runs of uncommitted code too, marked")
    parser.add_argument("--out", metavar="DIR", type=command.path, help="where table and plots go (default: the folder itself)")
    return command.run(parser, _ablation, arguments)


def _ablation(options: argparse.Namespace) -> None:
    from pvera.plots import paper
    from pvera.tables.ablation_charts import panel

    out = options.out or options.folder
    files, errors = store.scan(options.folder)
    command.warn(errors)
    storage.ensure_writable(out)
    admit(files.values(), options.folder, allow_limited=options.allow_limited, allow_dirty=options.allow_dirty)
    shown, errors = ablations(files, options.score)
    command.warn(errors)
    for number, ablation in enumerate(shown):
        paper.save(panel(ablation, options.score), out / f"ablation-{ablation.task}{f'-{number}' if number else ''}")
    header = ["task", "setting", "figure", "mean", "std", "seeds"]
    text = "\n".join(markdown(ablation) for ablation in shown)
    storage.write_atomically(out / "ablation.csv", csv_text([header, *(line for ablation in shown for line in tidy(ablation))]).encode())
    storage.write_atomically(out / "ablation.md", text.encode())
    print(text, end="")


if __name__ == "__main__":
    sys.exit(main())
