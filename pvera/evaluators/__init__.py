"""Ways to test a trained run, one file each: a module here with an EVALUATOR is a choice of `python -m pvera.evaluate RUN --with NAME`.

base.py        what an evaluator is;  command.py: reports written and printed;  formatting.py: numbers as text
trained.py     a trained run opened again, with its test images
foreign.py     out-of-distribution images
"""

import importlib
import pkgutil
from functools import cache

from adapters import folders
from pvera.errors import UserError
from pvera.evaluators.base import Evaluator


@cache
def _evaluator(module: str) -> Evaluator | None:
    return getattr(importlib.import_module(f"{__name__}.{module}"), "EVALUATOR", None)


def evaluators() -> dict[str, Evaluator]:
    """Every evaluator by name: those of this folder, and of the folders that the variable PVERA_EVALUATORS lists, separated as in PATH.

    Raises UserError if a folder is missing, a file cannot be imported, or two files or two evaluators have the same name.
    """
    folders.add(__path__, "PVERA_EVALUATORS", UserError)
    found: dict[str, Evaluator] = {}
    files: dict[str, str] = {}
    for folder in __path__:
        for name in sorted(info.name for info in pkgutil.iter_modules([folder])):
            if name in files:
                raise UserError(f"{name}.py is both in {files[name]} and in {folder}: rename one of them")
            files[name] = folder
            try:
                evaluator = _evaluator(name)
            except Exception as error:
                raise UserError(f"{name}.py in {folder} cannot be imported: {type(error).__name__}: {error}") from error
            if evaluator is not None and evaluator.name in found:
                raise UserError(f"two evaluators have the name {evaluator.name!r}, one of them in {folder}: rename it")
            if evaluator is not None:
                found[evaluator.name] = evaluator
    return found
