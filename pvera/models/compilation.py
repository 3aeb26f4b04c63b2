"""`compile=true`: the adapted blocks as torch.compile makes them, each kind of block once, for batches of one size."""

import os
import shutil
from collections.abc import Iterable

import torch
from torch import nn

from adapters.inject import edits
from adapters.stream import stream
from pvera.errors import UserError

#: How many shapes and kinds of block one process may compile: packs of several sizes, adapters, merged weights. By default 8, then none.
KINDS = 256


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """From now on these are compiled when they are called; blocks of the same make share what was compiled."""
    torch.compiler.config.recompile_limit = KINDS
    for block in blocks:
        for edit in edits(block):
            edit.stream = stream(edit.noise)
        block.compile(dynamic=False)


def check(device: torch.device) -> None:
    """Raises UserError where the compiler that torch.compile needs is missing."""
    compilers = [os.environ.get("CXX") or "g++", "clang++"]
    if device.type == "cpu" and not any(map(shutil.which, compilers)):
        raise UserError(f"compile=true needs a C++ compiler, found neither {' nor '.join(compilers)}: install one, or leave compile out")
