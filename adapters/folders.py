"""Folders of a user's own modules, which an environment variable lists."""

import os
from collections.abc import MutableSequence
from pathlib import Path


def add(path: MutableSequence[str], variable: str, error: type[Exception]) -> None:
    """Adds the folders that a variable lists, separated as in PATH, to the path of a package, whose modules are looked for there too.

    Raises the error for one that is not a folder.
    """
    for listed in filter(None, os.environ.get(variable, "").split(os.pathsep)):
        folder = os.path.expanduser(listed)  # noqa: PTH111  (a Path raises where there is no such home)
        if not Path(folder).is_dir():
            raise error(f"{variable} lists {folder}, which is not a folder: correct the variable or unset it")
        if folder not in path:
            path.append(folder)
