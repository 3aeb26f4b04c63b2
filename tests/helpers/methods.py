"""The table of docs/methods.md, from the code of the methods. `python -m tests.helpers.methods` writes it anew."""

import re
import sys
from pathlib import Path

import timm
import torch

import adapters
from pvera.exchange.write import lacks
from tests.helpers.models import new_parameters

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
START, STOP = "<!-- table -->", "<!-- end of the table -->"


def page_with_table(page: str) -> str:
    """The page with its table, between the two comments, as the code has it now."""
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
    before, _, rest = page.partition(START)
    return "\n".join([before + START, "", *lines, "", STOP + rest.partition(STOP)[2]])


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
