"""Freeze the backbone, then inject: whatever is new is trainable."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from adapters.base import Adapter, Site
from adapters.errors import AdapterError

#: Where a target sits in a timm block.
PATHS = {"q": "attn.qkv", "k": "attn.qkv", "v": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2",
         "act": "mlp.act", "attn": "attn", "mlp": "mlp", "norm2+mlp": "mlp"}  # fmt: skip
#: What a random latent can be outside training: its mean, a draw, or (as the released code has it) the mean plus one sigma.
MODES = ("mean", "sample", "mean+sigma")


class Edit(nn.Module):
    """What an adapter adds at one site: its new parameters as attributes, and the adapter that says what they do."""

    noise: torch.Generator

    def __init__(self, adapter: Adapter, parts: dict[str, Any], noise: torch.Generator, device: torch.device, site: str = "") -> None:
        super().__init__()
        self.adapter, self.noise, self.site = adapter, noise, site
        self.mode: str | None = None
        self.averaged = 1
        self.rows: Sequence[torch.Generator] | None = None
        self.stream: Tensor | None = None  # what a compiled graph draws from
        for name, part in parts.items():
            if isinstance(part, nn.Parameter):
                part = nn.Parameter(part.to(device))
            elif isinstance(part, nn.Module):
                part = part.to(device)
            elif isinstance(part, Tensor):
                part = part.to(device)
                self.register_buffer(name, part, persistent=False)
                continue
            setattr(self, name, part)

    @property
    def sampling(self) -> bool:
        """Whether the latent leaves its mean: in training, or where `sampling(model, ...)` says so."""
        return self.training if self.mode is None else self.mode != "mean"

    def draw(self, how: Callable[..., Tensor], shape: tuple[int, ...], **kwargs: Any) -> Tensor:
        """how(shape, generator=..., **kwargs), with `how` like torch.randn: the average of as many draws as `sampling` asked for."""

        source = self.stream if self.stream is not None and torch.compiler.is_compiling() else self.noise

        def once() -> Tensor:
            if self.rows is None:
                return how(shape, generator=source, **kwargs)
            return torch.stack([how(shape[1:], generator=one, **kwargs) for one in self.rows])

        total = once()
        for _ in range(1, self.averaged):
            total += once()
        return total / self.averaged if self.averaged > 1 else total

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.adapter.edit(self, x, y).to(y.dtype)


class FusedQKV(nn.Module):
    """Edits of the query, key and value thirds of one Linear. The only code that knows that timm stores the three as one."""

    def __init__(self, edits: dict[str, Edit]) -> None:
        super().__init__()
        self.edits = nn.ModuleDict(edits)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        thirds = [
            self.edits[name](x, third) if name in self.edits else third for name, third in zip("qkv", y.chunk(3, dim=-1), strict=True)
        ]
        return torch.cat(thirds, dim=-1)


class Adapted(nn.Module):
    """Stands where `base` stood; the edit sees what went in and what came out."""

    def __init__(self, base: nn.Module, edit: nn.Module) -> None:
        super().__init__()
        self.base, self.edit = base, edit

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.edit(x, self.base(x, **kwargs))


def inject(backbone: nn.Module, adapter: Adapter, seed: int) -> nn.Module:
    """A copy of the frozen backbone with the adapter's edits in it. The copy shares the backbone's weights; only what is new trains.

    `seed` fixes every new parameter and projection, independent of torch's global generator; the noise of the model starts from it too.
    Raises AdapterError where the backbone lacks a site the adapter needs.
    """
    shared_tensors = {id(t): t for t in (*backbone.parameters(), *backbone.buffers())}
    model = copy.deepcopy(backbone, shared_tensors).requires_grad_(False)
    device = next(backbone.parameters()).device
    noise = torch.Generator(device).manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sites = find_sites(model, adapter)
        shared = adapter.shared(sites, seed) if sites else None
        new = [(site, Edit(adapter, adapter.parts(site, shared), noise, device, f"{site.block}.{site.target}")) for site in sites]
    blocks: Any = model.blocks if sites else ()
    for index, block in enumerate(blocks):
        _place(block, {site.target: edit for site, edit in new if site.block == index})
    return model


def find_sites(model: nn.Module, adapter: Adapter) -> list[Site]:
    """Every site of the adapter in a timm vision transformer, block by block."""
    targets = adapter.sites()
    if not targets:
        return []
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList):
        raise AdapterError(f"{adapter.name} needs a vision transformer with .blocks; {type(model).__name__} has none")
    chosen = range(len(blocks)) if adapter.layers is None else adapter.layers
    if max(chosen) >= len(blocks):
        raise AdapterError(f"adapter.layers names block {max(chosen)}, but the backbone has blocks 0 to {len(blocks) - 1}")
    return [_site(blocks[index], index, target, adapter.name) for index in chosen for target in targets]


def _site(block: nn.Module, index: int, target: str, adapter: str) -> Site:
    path = PATHS[target]
    needed = [path, "norm1"] + (["norm2"] if target == "norm2+mlp" else []) + (["mlp.fc2"] if target == "act" else [])
    for name in needed:
        try:
            block.get_submodule(name)
        except AttributeError:
            raise AdapterError(
                f"{adapter} edits {target} and needs {name} in every block; {type(block).__name__} {index} has none"
            ) from None
    norm1: Any = block.get_submodule("norm1")
    module, width = block.get_submodule(path), norm1.weight.shape[0]
    if target in ("attn", "mlp", "norm2+mlp"):
        return Site(index, target, width, width)
    if target == "act":
        hidden = block.get_submodule("mlp.fc2").in_features
        return Site(index, target, hidden, hidden)  # type: ignore[arg-type]
    if not isinstance(module, nn.Linear):
        raise AdapterError(f"{adapter} edits {target} and needs a Linear at {path}; block {index} has a {type(module).__name__}")
    rows = slice(None)
    if path == "attn.qkv":
        third = module.out_features // 3
        rows = slice(third * "qkv".index(target), third * ("qkv".index(target) + 1))
    weight = module.weight[rows]
    return Site(index, target, weight.shape[1], weight.shape[0], weight, None if module.bias is None else module.bias[rows])


def _place(block: Any, edits: dict[str, Edit]) -> None:
    """Puts the edits of one block where their targets are."""
    if fused := {target: edit for target, edit in edits.items() if PATHS[target] == "attn.qkv"}:
        block.attn.qkv = Adapted(block.attn.qkv, FusedQKV(fused))
    for target, edit in edits.items():
        if target == "norm2+mlp":
            block.mlp = Adapted(nn.Sequential(block.norm2, block.mlp), edit)
            block.norm2 = nn.Identity()
        elif target not in fused:
            parent, _, child = PATHS[target].rpartition(".")
            owner = block.get_submodule(parent)
            setattr(owner, child, Adapted(getattr(owner, child), edit))


def edits(model: nn.Module) -> Iterator[Edit]:
    """Every edit in the model, in the order of the blocks."""
    return (module for module in model.modules() if isinstance(module, Edit))


@contextmanager
def sampling(model: nn.Module, on: bool | str, average: int = 1, rows: Sequence[torch.Generator] | None = None) -> Iterator[None]:
    """Switches the noise of all edits on or off, whatever the training mode, and restores it.

    on       a mode of `MODES`, or True for "sample", False for "mean"
    average  how many draws of the latent are averaged in it
    rows     a generator for each row of the batch, in place of the model's own: a row's draws then depend on no other row
    """
    mode = on if isinstance(on, str) else "sample" if on else "mean"
    if mode not in MODES or average < 1:
        raise ValueError(f"the mode must be one of {', '.join(MODES)} with an average of at least 1, found {on!r} and {average}")
    before = [(edit, (edit.mode, edit.averaged, edit.rows)) for edit in edits(model)]
    for edit, _ in before:
        edit.mode, edit.averaged, edit.rows = mode, average, rows
    try:
        yield
    finally:
        for edit, state in before:
            edit.mode, edit.averaged, edit.rows = state


def edit_at(block: nn.Module, target: str) -> Edit:
    """The edit of a target in one adapted block."""
    edit: Any = block.get_submodule(PATHS[target]).edit
    found: Any = edit.edits[target] if isinstance(edit, FusedQKV) else edit
    return found
