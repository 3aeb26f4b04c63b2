"""The device of a run."""

import os

import pytest
import torch

from pvera.errors import UserError
from pvera.models import compilation, precision, resources


def with_devices(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


@pytest.mark.parametrize(("count", "name"), [(1, "cuda:0"), (2, "cuda:1"), (8, "cuda:7")])
def test_a_device_with_an_index_is_that_one(monkeypatch, count, name):
    chosen = with_devices(monkeypatch, count)
    assert str(resources.device(name)) == name and chosen == [int(name[-1])]


@pytest.mark.parametrize(("count", "name", "reason"), [
    (0, "cuda", "device=cuda, but torch sees no CUDA device"),
    (0, "cuda:1", "device=cuda:1, but torch sees no CUDA device"),
    (1, "cuda:1", "device=cuda:1, but torch sees 1 CUDA device, from cuda:0 on"),
    (2, "cuda:2", "device=cuda:2, but torch sees 2 CUDA devices, from cuda:0 on"),
    (1, "mps", "device=mps, but torch sees no Apple GPU"),
])  # fmt: skip
def test_a_device_that_is_not_there_is_refused(monkeypatch, count, name, reason):
    with_devices(monkeypatch, count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=reason):
        resources.device(name)


def test_auto_is_the_first_gpu_or_the_cpu(monkeypatch):
    with_devices(monkeypatch, 2)
    assert str(resources.device("auto")) == str(resources.device("cuda")) == "cuda"
    with_devices(monkeypatch, 0)
    assert str(resources.device("auto")) == str(resources.device("cpu")) == "cpu"


@pytest.mark.parametrize(("capability", "compiler", "reason"), [
    ((6, 1), True, "needs a GPU of compute capability 7.0 or above, found 6.1"),
    ((8, 0), False, "needs a C compiler, found neither gcc nor clang"),
])  # fmt: skip
def test_compilation_on_a_gpu_needs_what_triton_needs(monkeypatch, capability, compiler, reason):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(compilation, "find_spec", lambda name: name)
    monkeypatch.setattr(compilation.shutil, "which", lambda name: compiler and name)
    with pytest.raises(UserError, match=reason):
        compilation.check(torch.device("cuda"))


def test_an_apple_gpu_is_taken_when_it_is_asked_for_and_its_gaps_are_left_to_the_cpu(monkeypatch):
    monkeypatch.delenv("PYTORCH_ENABLE_MPS_FALLBACK", raising=False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with_devices(monkeypatch, 0)
    precision.check_device("mps", "device")
    assert os.environ["PYTORCH_ENABLE_MPS_FALLBACK"] == "1"
    assert str(resources.device("mps")) == "mps" and str(resources.device("auto")) == "cpu"
    with pytest.raises(UserError, match="compile=true is for cpu and cuda"):
        compilation.check(torch.device("mps"))
