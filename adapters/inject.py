"""Injection of an adapter into a frozen backbone: everything new is trainable, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from adapters.base import Adapter, Site
from adapters.errors import AdapterError

#: Path of each target in a timm block.
PATHS = {"q": "attn.qkv", "k": "attn.qkv", "v": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2",
         "act": "mlp.act", "attn": "attn", "mlp": "mlp", "norm2+mlp": "mlp"}  # fmt: skip
#: What a random latent can be outside training: its mean, a random draw, or (as in the released code) the mean plus one sigma.
MODES = ("mean", "sample", "mean+sigma")


class Edit(nn.Module):
    """The edit of one site: the adapter's parameters as attributes, and the adapter that applies them."""

    noise: torch.Generator
    """The model's own random generator, which all its edits share."""

    def __init__(self, adapter: Adapter, params: dict[str, Any], noise: torch.Generator, site: str = "") -> None:
        super().__init__()
        self.adapter, self.noise, self.site = adapter, noise, site
        self.mode: str | None = None
        self.average = 1
        self.generators: Sequence[torch.Generator] | None = None
        self.stream: Tensor | None = None  # stands for the generator in a compiled graph
        for name, value in params.items():
            if isinstance(value, nn.Parameter):
                value = nn.Parameter(value.to(noise.device))
            elif isinstance(value, nn.Module):
                value = value.to(noise.device)
            elif isinstance(value, Tensor):
                self.register_buffer(name, value.to(noise.device), persistent=False)
                continue
            setattr(self, name, value)

    @property
    def sampling(self) -> bool:
        """Whether the latent is random: in training mode, unless the context manager `sampling` decides otherwise."""
        return self.training if self.mode is None else self.mode != "mean"

    def draw(self, function: Callable[..., Tensor], shape: tuple[int, ...], **kwargs: Any) -> Tensor:
        """function(shape, generator=..., **kwargs) for a function like torch.randn: the mean of as many draws as `sampling` sets."""
        source = self.stream if self.stream is not None and torch.compiler.is_compiling() else self.noise

        def draw_once() -> Tensor:
            if self.generators is None:
                return function(shape, generator=source, **kwargs)
            return torch.stack([function(shape[1:], generator=generator, **kwargs) for generator in self.generators])

        total = draw_once()
        for _ in range(1, self.average):
            total += draw_once()
        return total / self.average if self.average > 1 else total

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.adapter.edit(self, x, y).to(y.dtype)


class FusedQKV(nn.Module):
    """Edits of the query, key and value thirds of one Linear: timm stores the three as one."""

    def __init__(self, edits: dict[str, Edit]) -> None:
        super().__init__()
        self.edits = nn.ModuleDict(edits)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        thirds = zip("qkv", y.chunk(3, dim=-1), strict=True)
        return torch.cat([self.edits[name](x, third) if name in self.edits else third for name, third in thirds], dim=-1)


class Adapted(nn.Module):
    """Replaces the module `base`; the edit receives the module's input and output."""

    def __init__(self, base: nn.Module, edit: nn.Module) -> None:
        super().__init__()
        self.base, self.edit = base, edit

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.edit(x, self.base(x, **kwargs))


def inject(backbone: nn.Module, adapter: Adapter, seed: int) -> nn.Module:
    """Returns a copy of the frozen backbone with the adapter's edits. The copy shares the backbone's weights; only the edits train.

    `seed` determines every new parameter and projection, independently of torch's global generator, and seeds the model's noise.
    Raises AdapterError if the backbone lacks a site that the adapter needs.
    """
    weights = {id(t): t for t in (*backbone.parameters(), *backbone.buffers())}
    model: Any = copy.deepcopy(backbone, weights).requires_grad_(False)
    noise = torch.Generator(next(backbone.parameters()).device).manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sites = find_sites(model, adapter)
        shared = adapter.init_shared(sites, seed) if sites else None
        new = [(site, Edit(adapter, adapter.init_params(site, shared), noise, f"{site.block}.{site.target}")) for site in sites]
    for index in {site.block for site in sites}:
        _place(model.blocks[index], {site.target: edit for site, edit in new if site.block == index})
    return model


def find_sites(model: nn.Module, adapter: Adapter) -> list[Site]:
    """All sites of the adapter in a timm vision transformer, block by block. Raises AdapterError if one is missing."""
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
    extra = {"norm2+mlp": ["norm2"], "act": ["mlp.fc2"]}.get(target, [])
    modules: dict[str, Any] = {}
    for name in (path, "norm1", *extra):
        try:
            modules[name] = block.get_submodule(name)
        except AttributeError:
            raise AdapterError(
                f"{adapter} edits {target} and needs {name} in every block; {type(block).__name__} {index} has none"
            ) from None
    linear = modules[path]
    if target in ("attn", "mlp", "norm2+mlp", "act"):
        width = modules["mlp.fc2"].in_features if target == "act" else modules["norm1"].weight.shape[0]
        return Site(index, target, width, width)
    if not isinstance(linear, nn.Linear):
        raise AdapterError(f"{adapter} edits {target} and needs a Linear at {path}; block {index} has a {type(linear).__name__}")
    # Detached tensors, not Parameters, which an edit would train.
    weight, bias = (None if p is None else p.detach() for p in (linear.weight, linear.bias))
    if path == "attn.qkv":
        weight, bias = (None if t is None else t.chunk(3)["qkv".index(target)] for t in (weight, bias))
    return Site(index, target, linear.in_features, len(weight), weight, bias)


def _place(block: Any, edits: dict[str, Edit]) -> None:
    """Inserts the edits of one block at their targets."""
    if fused := {target: edit for target, edit in edits.items() if PATHS[target] == "attn.qkv"}:
        block.attn.qkv = Adapted(block.attn.qkv, FusedQKV(fused))
    for target, edit in edits.items():
        if target == "norm2+mlp":
            block.mlp = Adapted(nn.Sequential(block.norm2, block.mlp), edit)
            block.norm2 = nn.Identity()
        elif target not in fused:
            block.set_submodule(PATHS[target], Adapted(block.get_submodule(PATHS[target]), edit))


def edits(model: nn.Module) -> Iterator[Edit]:
    """All edits of the model, in the order of the blocks."""
    return (module for module in model.modules() if isinstance(module, Edit))


def edit_at(block: nn.Module, target: str) -> Edit:
    """The edit of a target in one adapted block."""
    adapted: Any = block.get_submodule(PATHS[target])
    return cast(Edit, adapted.edit.edits[target] if isinstance(adapted.edit, FusedQKV) else adapted.edit)


@contextmanager
def sampling(model: nn.Module, mode: str, average: int = 1, generators: Sequence[torch.Generator] | None = None) -> Iterator[None]:
    """Context manager that sets how all edits treat their random latent, whatever the training mode.

    Args:
        mode: one of `MODES`.
        average: number of draws of the latent to average.
        generators: one generator per row of the batch, in place of the model's own, so that the draws of a row depend on no other row.
    """
    if mode not in MODES or average < 1:
        raise ValueError(f"the mode must be one of {', '.join(MODES)} with an average of at least 1, found {mode!r} and {average}")
    before = [(edit, (edit.mode, edit.average, edit.generators)) for edit in edits(model)]
    for edit, _ in before:
        edit.mode, edit.average, edit.generators = mode, average, generators
    try:
        yield
    finally:
        for edit, state in before:
            edit.mode, edit.average, edit.generators = state
