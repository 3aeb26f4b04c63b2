"""Injection of an adapter into a frozen backbone: everything new is trainable, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from adapters import families
from adapters.base import Adapter, Site
from adapters.errors import AdapterError
from adapters.families import Place

#: What a random latent can be outside training: its mean, a random draw, or (as in the released code) the mean plus one sigma.
MODES = ("mean", "sample", "mean+sigma")


class Edit(nn.Module):
    """The edit of one site: the adapter's parameters as attributes, and the adapter that applies them."""

    noise: torch.Generator
    """The model's own random generator, which all its edits share."""

    def __init__(
        self, adapter: Adapter, params: dict[str, Any], noise: torch.Generator, site: str, made: dict[nn.Parameter, nn.Parameter]
    ) -> None:
        """`made` has the model's own Parameter for each that an adapter returned: one that several sites share stays one."""
        super().__init__()
        self.adapter, self.noise, self.site = adapter, noise, site
        self.target = site.rpartition(".")[2]
        self.mode: str | None = None
        self.average = 1
        self.generators: Sequence[torch.Generator] | None = None
        self.stream: Tensor | None = None  # stands for the generator in a compiled graph
        for name, value in params.items():
            if hasattr(self, name):
                raise AdapterError(f"{adapter.name} names a parameter {name!r}, which every edit has for something else: rename it")
            if isinstance(value, nn.Parameter):
                if value not in made:  # a copy, since a Parameter around a frozen weight would train that weight
                    made[value] = nn.Parameter(value.detach().clone().to(noise.device))
                value = made[value]
            elif isinstance(value, nn.Module):
                if running := [type(part).__name__ for part in value.modules() if getattr(part, "track_running_stats", False)]:
                    raise AdapterError(f"{adapter.name} has a {running[0]}, whose running statistics no checkpoint holds: use another")
                value = value.to(noise.device)
            elif isinstance(value, Tensor):
                self.register_buffer(name, value.to(noise.device), persistent=False)
                continue
            setattr(self, name, value)

    def drop(self, x: Tensor, rate: float) -> Tensor:
        """x after dropout in training mode, by the model's own noise; else x."""
        if not (self.training and rate):
            return x
        keep = torch.empty(x.shape, device=x.device).bernoulli_(1 - rate, generator=self.noise)
        return x * (keep / (1 - rate)).to(x.dtype)

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

    def forget(self) -> None:
        """Lets go of what the last forward pass left on this edit, such as a penalty, whose graph holds on to the tensors of the pass."""
        left = [name for name, value in vars(self).items() if isinstance(value, Tensor) and value is not self.stream]
        for name in left:
            setattr(self, name, None)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        edited = self.adapter.edit(self, x, y)
        # An edit of a whole block may add and remove tokens. Anything else would be broadcast without a word, or fail far from here.
        free = 1 if self.target in ("tokens", "block") else 0
        if edited.shape[:1] != y.shape[:1] or edited.shape[1 + free :] != y.shape[1 + free :]:
            raise AdapterError(
                f"{self.adapter.name} must return the shape of its output, {tuple(y.shape)}, at {self.site}, found {tuple(edited.shape)}"
            )
        return edited.to(y.dtype)


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
        y = self.base(x, **kwargs)
        one = x.ndim == y.ndim == 3 and y.shape[1] == 1  # the last block, where it is computed for the class token alone
        return self.edit(x[:, :1] if one else x, y)


class Entered(Adapted):
    """Replaces a block; the edit changes the tokens that enter it."""

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.base(self.edit(x, x), **kwargs)


class AdaptedStem(Adapted):
    """Replaces the embedding of the patches, whose settings, such as the size of a patch, are read from here too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)


def inject(backbone: nn.Module, adapter: Adapter, seed: int = 0) -> nn.Module:
    """Returns a copy of the frozen backbone with the adapter's edits. The copy shares the backbone's weights; only the edits train.

    An adapter that is `whole` has no edits: the copy has weights of its own, and they train.

    `seed` determines every new parameter and projection, independently of torch's global generator, and seeds the model's noise.
    Raises AdapterError if the backbone lacks a site that the adapter needs.
    """
    blocks: Any = getattr(backbone, "blocks", ())
    chosen = [backbone] if adapter.layers is None else [blocks[index] for index in adapter.layers if index < len(blocks)]
    own = {id(parameter) for part in chosen for parameter in part.parameters()} if adapter.whole else set()
    shared_weights = {id(t): t for t in (*backbone.parameters(), *backbone.buffers()) if id(t) not in own}
    model: Any = copy.deepcopy(backbone, shared_weights).requires_grad_(False)
    for parameter in model.parameters():
        if id(parameter) not in shared_weights:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
    noise = torch.Generator(next(backbone.parameters()).device).manual_seed(seed)
    if families.family(model) and set(adapter.sites()) & {"q", "k", "v", "qkv", "norm1"}:
        for block in model.blocks:
            families.join_biases(block)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sites = find_sites(model, adapter)
        shared = adapter.init_shared(sites, seed) if sites else None
        made: dict[nn.Parameter, nn.Parameter] = {}
        new = [(site, Edit(adapter, adapter.init_params(site, shared), noise, site.name, made)) for site in sites]
    if new and not any(True for _, edit in new for _ in edit.parameters()):
        raise AdapterError(f"{adapter.name} finds nothing to train in this {type(model).__name__}, which has no such parameters")
    for index in {site.block for site in sites}:
        _place(model, index, {site.target: edit for site, edit in new if site.block == index})
    return model


def find_sites(model: nn.Module, adapter: Adapter) -> list[Site]:
    """All sites of the adapter in a timm vision transformer, block by block. Raises AdapterError if one is missing."""
    targets = adapter.sites()
    if not targets and not adapter.whole:
        return []
    if unknown := [target for target in targets if target not in families.SITES | families.PARTS]:
        raise AdapterError(f"{adapter.name} edits {unknown[0]!r}, which is no site; there are {', '.join(families.SITES | families.PARTS)}")
    if families.family(model) is None:
        known = ", ".join(family.model.rpartition(".")[2] for family in families.FAMILIES)
        raise AdapterError(f"{adapter.name} needs one of timm's plain vision transformers ({known}), and this is a {type(model).__name__}")
    blocks: Any = model.blocks
    chosen = range(len(blocks)) if adapter.layers is None else adapter.layers
    if max(chosen) >= len(blocks):
        raise AdapterError(f"adapter.layers names block {max(chosen)}, but the backbone has blocks 0 to {len(blocks) - 1}")
    parts = [target for target in targets if target in families.PARTS and adapter.layers is None]
    inner = [target for target in targets if target not in families.PARTS]
    sites = [site for target in parts for site in _sites(model, model, None, target, adapter.name)]
    return sites + [site for index in chosen for target in inner for site in _sites(model, blocks[index], index, target, adapter.name)]


def _sites(model: Any, owner: nn.Module, index: int | None, target: str, adapter: str) -> list[Site]:
    """The sites of a target in one block, or in the model: one, or two where a SwiGLU has two Linears in the place of one."""
    if not (found := families.places(owner, target)):
        where = type(owner).__name__ + ("" if index is None else f" {index}")
        raise AdapterError(f"{adapter} edits {target} and needs {families.missing(target)}; {where} of {type(model).__name__} has none")
    return [_site(model, owner, index, name, place, adapter) for name, place in found.items()]


def _site(model: Any, owner: nn.Module, index: int | None, target: str, place: Place, adapter: str) -> Site:
    module: Any = owner.get_submodule(place.path)
    common: Any = {"module": module, "prefix_tokens": getattr(model, "num_prefix_tokens", None), "patch_size": families.patch_size(model)}
    if target == "act":
        mlp: Any = owner.get_submodule(place.path.rpartition(".")[0])
        width = getattr(mlp, families.READERS["act"]).in_features
        return Site(index, target, width, width, **common)
    if target not in families.LINEARS:
        bias = families.bias(module, target)
        return Site(index, target, model.embed_dim, model.embed_dim, bias=None if bias is None else bias.detach(), **common)
    if not isinstance(module, nn.Linear):
        raise AdapterError(f"{adapter} edits {target} and needs a Linear at {place.path}; block {index} has a {type(module).__name__}")
    # Detached tensors, not Parameters, which an edit would train.
    weight, bias = (None if p is None else p.detach().chunk(place.of)[place.stack] for p in (module.weight, module.bias))
    return Site(index, target, module.in_features, len(weight), weight, bias, **common)


def _place(model: Any, index: int | None, edits: dict[str, Edit]) -> None:
    """Inserts the edits of one block, or of the parts outside of the blocks, at their targets."""
    owner = model if index is None else model.blocks[index]
    found = {target: families.places(owner, target)[target] for target in edits}
    if fused := {target: edit for target, edit in edits.items() if found[target].of > 1}:
        path = next(found[target].path for target in fused)
        owner.set_submodule(path, Adapted(owner.get_submodule(path), FusedQKV(fused)))
    # Inner modules first; of two edits of one module, the first name is inside. Parameters are named after that, in checkpoints too.
    for target in sorted(edits.keys() - fused.keys(), key=lambda target: (-len(found[target].path), target)):
        path, edit = found[target].path, edits[target]
        base = owner.get_submodule(path)
        if target == "norm2+mlp":
            norm = getattr(owner, families.NORM)
            setattr(owner, families.NORM, nn.Identity())
            base = nn.Sequential(norm, base)
        if path:
            owner.set_submodule(path, (AdaptedStem if target == "stem" else Adapted)(base, edit))
        else:
            model.blocks[index] = (Entered if target == "tokens" else Adapted)(model.blocks[index], edit)


def edits(model: nn.Module) -> Iterator[Edit]:
    """All edits of the model, in the order of the blocks."""
    return (module for module in model.modules() if isinstance(module, Edit))


def edit_at(block: nn.Module, target: str) -> Edit:
    """The edit of a target in one adapted block."""
    while isinstance(block, Adapted):
        if cast(Edit, block.edit).target == target:
            return cast(Edit, block.edit)
        block = cast(nn.Module, block.base)
    adapted: Any = block.get_submodule(families.places(block, target)[target].path)
    return cast(Edit, adapted.edit.edits[target] if isinstance(adapted.edit, FusedQKV) else adapted.edit)


#: `first_edit` of a model with an edit, or a trained weight, in front of the blocks.
STEM = -1


def first_edit(model: nn.Module) -> int | None:
    """Where a forward pass meets the first edit or trained weight: STEM, the index of a block, or their number if all are behind them.

    None if the model has neither.
    """
    blocks = list(getattr(model, "blocks", ()))
    within = {id(module): index for index, block in enumerate(blocks) for module in block.modules()}
    before = [module for part in families.places(model, "stem").values() for module in model.get_submodule(part.path).modules()]
    within |= {id(module): STEM for module in before}
    changed = (module for module in model.modules() if isinstance(module, Adapted) or _trains(module))
    return min((within.get(id(module), len(blocks)) for module in changed), default=None)


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters(recurse=False))


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
