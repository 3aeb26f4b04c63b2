"""Ways to test a trained run, one file each: a module here with an EVALUATOR is a choice of `python -m pvera.evaluate RUN --with NAME`.

base.py        what an evaluator is;  command.py: reports written and printed;  formatting.py: numbers as text
trained.py     a trained run opened again, with its test images
foreign.py     out-of-distribution images
"""

import importlib
import os
import pkgutil
from functools import cache

from pvera.evaluators.base import Evaluator

#: Folders of your own files: PVERA_EVALUATORS names them, separated as in PATH.
__path__.extend(os.path.expanduser(folder) for folder in os.environ.get("PVERA_EVALUATORS", "").split(os.pathsep) if folder)  # noqa: PTH111


@cache
def _evaluator(module: str) -> Evaluator | None:
    return getattr(importlib.import_module(module), "EVALUATOR", None)


def evaluators() -> dict[str, Evaluator]:
    """Every evaluator by its name."""
    there = (_evaluator(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    return {evaluator.name: evaluator for evaluator in there if evaluator is not None}
