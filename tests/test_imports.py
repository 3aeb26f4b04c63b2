import importlib.machinery
import json
import subprocess
import sys

import pytest

from pvera import imports


@pytest.fixture(scope="module")
def fresh() -> dict:
    """What a fresh interpreter finds: after `import pvera`, then after torchvision, timm and wandb too."""
    code = """
import json, sys, pvera
found = {"with pvera": [m for m in ("torch", "torchvision", "timm", "numpy") if m in sys.modules]}
from pvera import imports
ours = lambda: sum(isinstance(finder, imports._Torchvision) for finder in sys.meta_path)
imports.install()
found["finders"] = [ours()]
import torchvision.ops
imports.install()
found["finders"].append(ours())
import timm.utils, torch
found |= {"nms": hasattr(torch.ops.torchvision, "nms"), "wandb": "wandb" in sys.modules}
import wandb
found["names"] = [wandb.__name__, timm.__spec__.loader.name]
print(json.dumps(found))
"""
    return json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def test_importing_pvera_imports_neither_torch_nor_timm(fresh):
    assert fresh["with pvera"] == []


def test_torchvision_imports_with_its_operators_and_the_finder_steps_aside(fresh):
    assert fresh["nms"]
    assert fresh["finders"] == [1, 0]


def test_timm_does_not_import_wandb_which_can_be_imported_after_it(fresh):
    assert not fresh["wandb"]
    assert fresh["names"] == ["wandb", "timm"]


@pytest.mark.parametrize("healthy", [True, False])
def test_operators_are_declared_only_where_the_library_does_not_load(monkeypatch, tmp_path, healthy):
    import torch

    loaded, declared = [], []

    def load_library(path):
        loaded.append(path)
        if not healthy:
            raise OSError("libcudart.so.13: cannot open shared object file")

    class Library:
        def __init__(self, namespace, kind):
            assert (namespace, kind) == ("torchvision", "DEF")

        def define(self, schema):
            declared.append(schema)

    monkeypatch.setattr(torch.ops, "load_library", load_library)
    monkeypatch.setattr(torch.library, "Library", Library)
    monkeypatch.setattr(imports, "_libraries", [])
    (tmp_path / "_C.so").touch()
    imports._declare_missing_operators(str(tmp_path))
    assert loaded == [str(tmp_path / "_C.so")]
    schemas = [f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for op in ("nms", "qnms")]
    assert declared == ([] if healthy else schemas)
    assert len(imports._libraries) == (0 if healthy else 1)


def test_only_torchvision_itself_is_looked_at(monkeypatch):
    finder = imports._Torchvision()
    monkeypatch.setattr(imports, "_declare_missing_operators", lambda path: pytest.fail(f"looked at {path}"))
    assert finder.find_spec("torchvision.ops") is None
    assert finder.find_spec("torch") is None


def test_absent_torchvision_stays_an_import_error(monkeypatch):
    finder = imports._Torchvision()
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    monkeypatch.setattr(importlib.machinery.PathFinder, "find_spec", lambda name, path=None: None)
    assert finder.find_spec("torchvision") is None
    assert finder not in sys.meta_path
