"""Mends the import of two libraries, just before they are imported.

timm, torchmetrics and peft import torchvision, and torchvision declares fake kernels for operators that its own shared library
should have defined; without that library (its CUDA wheel beside a CPU-only torch) the import fails with `operator torchvision::nms does
not exist`. Declaring the two operator schemas first mends it. On a healthy installation nothing is declared.

timm imports wandb where it is installed, for a summary that nothing here writes. That takes longer than timm itself, so wandb counts
as absent while timm is imported.
"""

import importlib.abc
import importlib.machinery
import sys

_libraries: list[object] = []  # torch drops the declarations when the Library object dies


def install() -> None:
    """Arranges for what is mended when torchvision and timm are first imported; imports nothing itself."""
    for finder in (_Torchvision, _Timm):
        if finder.name not in sys.modules and not any(isinstance(f, finder) for f in sys.meta_path):
            sys.meta_path.insert(0, finder())


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one library as Python does, and mends it."""

    name: str

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        sys.meta_path.remove(self)  # once is enough, and the search below must not come back here
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.submodule_search_locations:
            self.mend(spec)
        return spec

    def mend(self, spec: importlib.machinery.ModuleSpec) -> None:
        raise NotImplementedError


class _Torchvision(_Finder):
    name = "torchvision"

    def mend(self, spec):
        _declare_missing_operators(spec.submodule_search_locations[0])


class _Timm(_Finder):
    name = "timm"

    def mend(self, spec):
        if "wandb" not in sys.modules:
            spec.loader = _WithoutWandb(spec.loader)


class _WithoutWandb(importlib.abc.Loader):
    """Loads a module while `import wandb` raises ImportError."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self._loader  # as without this class
        sys.modules["wandb"] = None  # type: ignore[assignment]
        try:
            self._loader.exec_module(module)
        finally:
            del sys.modules["wandb"]


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
