"""The table of docs/methods.md, from the code of the methods. `python -m tests.helpers.methods` writes it anew."""

import re
import sys
from pathlib import Path

import timm
import torch

import adapters
from adapters.zoo.peft import REFUSED, settings_by_type
from pvera.exchange.write import lacks
from tests.helpers.models import new_parameters

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
START, STOP = "<!-- table -->", "<!-- end of the table -->"
PEFT_START, PEFT_STOP = "<!-- PEFT's types -->", "<!-- end of PEFT's types -->"


def page_with_tables(page: str) -> str:
    """The page with the table of the methods and what there is about PEFT's types, each between two comments, as the code has them now."""
    return _between(_between(page, START, _methods(), STOP), PEFT_START, _pefts_types(), PEFT_STOP)


def _between(page: str, start: str, lines: list[str], stop: str) -> str:
    before, _, rest = page.partition(start)
    return "\n".join([before + start, "", *lines, "", stop + rest.partition(stop)[2]])


def _pefts_types() -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for kind, reason in REFUSED.items():
        by_reason.setdefault(reason, []).append(f"`{kind}`")
    refused = [f"| {', '.join(kinds)} | {reason} |" for reason, kinds in by_reason.items()]
    return ["These run: " + ", ".join(f"`{kind}`" for kind in settings_by_type()) + ".", "", "| refused | since |", "|--|--|", *refused]


def _methods() -> list[str]:
    with torch.device("meta"):
        backbone = timm.create_model("vit_base_patch16_224", num_classes=0)
    lines = ["| `adapter=` | what it computes | source | sites | merges | to PEFT | parameters |", "|--" * 6 + "|--:|"]
    for name, method in adapters.methods().items():
        module = sys.modules[method.__module__]
        if Path(str(module.__file__)).parent != Path(adapters.zoo.__file__).parent:
            continue  # a method of the user's own
        [(point, new), *_] = method().points()
        source = re.search(r"\(([^()]*arXiv [^()]*)\)", module.__doc__ or "")
        what = " ".join((method.__doc__ or "").split("\n\n")[0].split())
        settings = f" ({', '.join(f'{key} {value:g}' for key, value in point.items())})" if point else ""
        cells = [
            f"`{name}`", what, source[1] if source else "", " ".join(new.sites()), "yes" if new.mergeable else "no",
            "no" if lacks(new) else "yes", f"{new_parameters(backbone, new):,}{settings}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
