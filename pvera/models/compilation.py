"""`compile=true`: blocks compiled by torch.compile, each kind of block once, for batches of one size."""

import os
import shutil
from collections.abc import Iterable
from importlib.util import find_spec

import torch
from torch import nn

from adapters.injection import edits
from adapters.stream import stream
from pvera.errors import UserError
from pvera.models.drop_path import drop_paths

#: Limit of compilations in a process, one for each shape and kind of block. torch's default of 8 is too low for packs of several sizes.
KINDS = 256


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Has each block compiled when it is first called; blocks of the same structure share the result."""
    torch.compiler.config.recompile_limit = KINDS
    for block in blocks:
        for edit in edits(block):
            edit.stream = stream(edit.noise)
        for part in drop_paths(block):
            part.streams = [stream(generator) for generator in part.noise]
        block.compile(dynamic=False)


def check(device: torch.device) -> None:
    """Raises UserError if torch.compile does not serve this device, or has no compiler for it."""
    if device.type == "mps":
        raise UserError("compile=true is for cpu and cuda, found device=mps: leave compile out")
    language, compilers = "C++", [os.environ.get("CXX") or "g++", "clang++"]
    if device.type == "cuda":
        if (capability := torch.cuda.get_device_capability(device)) < (7, 0):
            found = ".".join(map(str, capability))
            raise UserError(f"compile=true needs a GPU of compute capability 7.0 or above, found {found}: leave compile out")
        if find_spec("triton") is None:
            raise UserError("compile=true needs the package triton on a GPU, which is not installed: install it, or leave compile out")
        language, compilers = "C", [os.environ.get("CC") or "gcc", "clang"]  # triton compiles what launches its kernels
    if not any(map(shutil.which, compilers)):
        raise UserError(
            f"compile=true needs a {language} compiler, found neither {' nor '.join(compilers)}: install one, or leave compile out"
        )
