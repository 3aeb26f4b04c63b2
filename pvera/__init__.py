"""pvera: a benchmark harness for parameter-efficient fine-tuning of vision transformers on VTAB-1k.

Importing this package imports neither torch nor timm, so that `python -m pvera --help` answers at once.
"""

import os
import sys


def _prefer_own_packages() -> None:
    """Puts the folder of this package before the current one on the import path.

    `python -m` looks in the current folder first, where `configs`, `data` or `adapters` may be somebody else's.
    """
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120  (pathlib takes a while to import)
    first = sys.path[0] if sys.path else root
    if os.path.realpath(first or ".") == os.path.realpath(".") != os.path.realpath(root):
        sys.path.append(sys.path.pop(0))
        if root not in sys.path:
            sys.path.insert(0, root)


_prefer_own_packages()

from pvera import imports  # noqa: E402

imports.install()
