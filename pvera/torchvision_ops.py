"""Lets `import torchvision` succeed where its compiled operators cannot load (its CUDA wheel beside a CPU-only torch).

timm, torchmetrics and peft import torchvision, and torchvision declares fake kernels for operators that its own shared library
should have defined; without that library the import fails with `operator torchvision::nms does not exist`. Declaring the two
operator schemas first mends it. On a healthy installation nothing is declared.
"""

import importlib.abc
import importlib.machinery
import sys

_libraries: list[object] = []  # torch drops the declarations when the Library object dies


def install() -> None:
    """Arranges for the operators to be declared just before torchvision is first imported; imports nothing itself."""
    if "torchvision" not in sys.modules and not any(isinstance(f, _Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "torchvision":
            return None
        sys.meta_path.remove(self)  # once is enough, and the search below must not come back here
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.submodule_search_locations:
            _declare_missing_operators(spec.submodule_search_locations[0])
        return spec


def _declare_missing_operators(folder: str) -> None:
    import torch

    loader = (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES)
    library_spec = importlib.machinery.FileFinder(folder, loader).find_spec("_C")  # as torchvision itself looks for it
    try:
        if library_spec is None or library_spec.origin is None:
            raise OSError(f"no compiled operators in {folder}")
        torch.ops.load_library(library_spec.origin)
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for op in ("nms", "qnms"):
            library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _libraries.append(library)
