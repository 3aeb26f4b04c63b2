"""timm's families of vision transformers: where each keeps what an adapter edits, and how its blocks are run.

This is the only file that knows the names of timm's modules. It imports neither timm, since a model belongs to a family by the name of
its class, nor torch, which the command line can do without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Place:
    """The rows of a module that compute a target: stack number `stack` (from 0) of `of` equal stacks of its outputs."""

    path: str
    """Of the module in its block, or in the model."""
    stack: int = 0
    of: int = 1


def _linear(name: str, third: int) -> tuple[tuple[Place, ...], ...]:
    """Query, key or value: rows of one Linear, or a Linear of its own."""
    return (Place("attn.qkv", third, 3),), (Place(f"attn.{name}_proj"),)


#: Where a target is in a block: alternatives, of which a block has one. An alternative with several places stands for a site at each.
SITES: dict[str, tuple[tuple[Place, ...], ...]] = {
    "q": _linear("q", 0),
    "k": _linear("k", 1),
    "v": _linear("v", 2),
    "qkv": ((Place("attn.qkv"),), (Place("attn.q_proj"), Place("attn.k_proj"), Place("attn.v_proj"))),  # all three
    "q_proj": ((Place("attn.q_proj"),),),
    "k_proj": ((Place("attn.k_proj"),),),
    "v_proj": ((Place("attn.v_proj"),),),
    "proj": ((Place("attn.proj"),),),
    "fc1": ((Place("mlp.fc1"),), (Place("mlp.fc1_g"), Place("mlp.fc1_x"))),  # SwiGLU has a Linear for the gate, and one for what it gates
    "fc1_g": ((Place("mlp.fc1_g"),),),
    "fc1_x": ((Place("mlp.fc1_x"),),),
    "fc2": ((Place("mlp.fc2"),),),
    "act": ((Place("mlp.norm"),), (Place("mlp.act"),)),  # what fc2 reads: behind the activation some MLPs have a norm
    "attn": ((Place("attn"),),),
    "mlp": ((Place("mlp"),),),
    "norm2+mlp": ((Place("mlp"),),),
    "norm1": ((Place("norm1"),),),
    "norm2": ((Place("norm2"),),),
    "tokens": ((Place(""),),),
    "block": ((Place(""),),),
}
#: The same for the targets outside of the blocks: the embedding of the patches, and the norm behind the blocks or behind the pooling.
PARTS: dict[str, tuple[tuple[Place, ...], ...]] = {"stem": ((Place("patch_embed"),),), "norm": ((Place("norm"),), (Place("fc_norm"),))}

#: The targets that are Linear layers.
LINEARS = ("q", "k", "v", "qkv", "q_proj", "k_proj", "v_proj", "proj", "fc1", "fc1_g", "fc1_x", "fc2")
#: The targets whose output has a bias that is added last: the norms, and the stem's convolution.
BIASED = ("norm1", "norm2", "norm", "stem")
#: The norm in front of the MLP, of the target `norm2+mlp`.
NORM = "norm2"
#: The targets whose output Linears read, and these: a matrix on it can be merged into them.
READERS = {"norm1": "qkv", "norm2": "fc1", "act": "fc2"}
#: Blocks whose norms stand behind attention and MLP, so that no norm is in front of the MLP.
_POST_NORM = ("ResPostBlock", "EvaBlockPostNorm")
#: MLPs whose activation sees the gate alone: what `fc2` reads is behind their norm, which may be an Identity.
_GATED_MLPS = ("SwiGLU", "GluMlp")
#: The module of timm whose blocks take any number of tokens. Attention of other blocks embeds the position of each token.
_NO_POSITIONS = "timm.models.vision_transformer"


def places(owner: nn.Module, target: str) -> dict[str, Place]:
    """Where a target is in a block, or in a model: the place of each of its sites, by their names; empty if it is missing.

    An Identity is no module to edit.
    """
    if target == "norm2+mlp" and type(owner).__name__ in _POST_NORM:
        return {}
    if target == "tokens" and type(owner).__module__ != _NO_POSITIONS:
        return {}
    for alternative in (SITES | PARTS)[target]:
        if all(_has(owner, place.path) for place in alternative):
            return {target if len(alternative) == 1 else place.path.rpartition(".")[2]: place for place in alternative}
    return {}


def readers(block: nn.Module, target: str) -> dict[str, Place]:
    """The Linears that read the output of a target (`READERS`), and are all that does; empty if there is anything else."""
    gated = target == "norm1" and getattr(getattr(block, "attn", None), "gate", None) is not None
    if gated or target not in READERS or (target != "act" and type(block).__name__ in _POST_NORM):
        return {}
    return places(block, READERS[target])


def _has(owner: nn.Module, path: str) -> bool:
    from torch import nn

    try:
        if path == "mlp.norm" and type(owner.get_submodule("mlp")).__name__ in _GATED_MLPS:
            return True
        return not isinstance(owner.get_submodule(path), nn.Identity)
    except AttributeError:
        return False


def drop_paths(block: nn.Module) -> list[str]:
    """The paths in a block of what leaves out a branch at random in training, or is an Identity where the rate is 0."""
    return [path for path, _ in block.named_modules() if path.rpartition(".")[2].startswith("drop_path")]


def missing(target: str) -> str:
    """What a block needs for a target, in words."""
    if target == "norm2+mlp":
        return f"{NORM} in front of mlp"
    if target == "tokens":
        return "attention without position embeddings of its own"
    return " or ".join(" and ".join(place.path for place in alternative) for alternative in (SITES | PARTS)[target])


@dataclass(frozen=True)
class Family:
    """One of timm's classes of vision transformers, and how its forward pass is taken apart at a block."""

    name: str
    model: str
    """The full name of the class."""
    stem: Callable[[Any, Tensor], Tensor]
    """From a model and normalised images (B, 3, S, S) to the tokens that enter the first block."""
    arguments: Callable[[Any], list[dict[str, Any]]]
    """The keyword arguments of each block besides the tokens, such as rotary position embeddings."""


def _vit_stem(model: Any, images: Tensor) -> Tensor:
    return model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))


def _eva_stem(model: Any, images: Tensor) -> Tensor:
    return model.norm_pre(model._pos_embed(model.patch_embed(images))[0])


def _eva_arguments(model: Any) -> list[dict[str, Any]]:
    if model.rope is None:
        return _no_arguments(model)
    rope = model.rope.get_embed() if hasattr(model.rope, "feat_shape") else model.rope.get_embed(shape=model.patch_embed.grid_size)
    return [{"rope": rope[index] if model.rope_mixed else rope} for index in range(len(model.blocks))]


def _beit_stem(model: Any, images: Tensor) -> Tensor:
    import torch

    x = model.patch_embed(images)
    x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], dim=1)
    return model.pos_drop(x if model.pos_embed is None else x + model.pos_embed)


def _beit_arguments(model: Any) -> list[dict[str, Any]]:
    return _no_arguments(model) if model.rel_pos_bias is None else [{"shared_rel_pos_bias": model.rel_pos_bias()}] * len(model.blocks)


def _sam_stem(model: Any, images: Tensor) -> Tensor:
    from timm.layers import resample_abs_pos_embed_nhwc

    x = model.patch_embed(images)  # (B, rows, columns, width)
    if model.pos_embed is not None:
        x = x + resample_abs_pos_embed_nhwc(model.pos_embed, x.shape[1:3])
    return model.norm_pre(x)


def bias(module: Any, target: str) -> Tensor | None:
    """The bias (width,) that a norm, or the stem's convolution, adds to its output last; None if there is none."""
    from torch import nn

    if target == "stem":
        module = getattr(module, "proj", None) if isinstance(getattr(module, "norm", None), nn.Identity) else None
        return module.bias if isinstance(module, nn.Conv2d) else None
    return getattr(module, "bias", None) if target in BIASED else None


def patch_size(model: Any) -> int:
    """Pixels of a patch's side."""
    size = model.patch_embed.patch_size
    return size if isinstance(size, int) else size[0]


def _no_arguments(model: Any) -> list[dict[str, Any]]:
    return [{}] * len(model.blocks)


FAMILIES = (
    Family("ViT", "timm.models.vision_transformer.VisionTransformer", _vit_stem, _no_arguments),
    Family("EVA", "timm.models.eva.Eva", _eva_stem, _eva_arguments),
    Family("BEiT", "timm.models.beit.Beit", _beit_stem, _beit_arguments),
    Family("SAM", "timm.models.vision_transformer_sam.VisionTransformerSAM", _sam_stem, _no_arguments),
)


_FIXED_SIZE = {"dynamic_img_size": False}
#: timm's modules whose models are of a family and classify, and the arguments that keep such a model at one image size.
MODULES: dict[str, dict[str, Any]] = {
    "timm.models.vision_transformer": _FIXED_SIZE,
    "timm.models.vision_transformer_hybrid": _FIXED_SIZE,
    "timm.models.deit": _FIXED_SIZE,
    "timm.models.eva": _FIXED_SIZE,
    "timm.models.beit": {},
}


def family(model: nn.Module) -> Family | None:
    """The family of a model, by its class or one that it is derived from; None if it has none."""
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(model).__mro__}
    return next((family for family in FAMILIES if family.model in names), None)


def stem(model: nn.Module, images: Tensor) -> Tensor:
    """The tokens (B, N, width) that enter the first block, of normalised images (B, 3, S, S)."""
    return _known(model).stem(model, images)


def run_blocks(model: Any, tokens: Tensor, start: int, stop: int | None = None) -> Tensor:
    """The tokens (B, N, width) behind the blocks from `start` up to `stop`, which each gets its own arguments."""
    arguments = _known(model).arguments(model)
    for block, own in list(zip(model.blocks, arguments, strict=True))[start:stop]:
        tokens = block(tokens, **own)
    return tokens


def pooled(model: Any, tokens: Tensor) -> Tensor:
    """The features (B, width) of the tokens behind the last block, after the last norm and the model's pooling."""
    return model.forward_head(model.norm(tokens))


def patches(model: Any, tokens: Tensor) -> Tensor:
    """The patch tokens (B, rows, columns, width) behind the last block, after the last norm.

    SAM's encoder has no such norm, and its tokens stand in rows and columns already; the neck behind its blocks is left out.
    """
    from torch import nn

    if _known(model).name == "SAM":
        return tokens
    norm = model.fc_norm if isinstance(model.norm, nn.Identity) else model.norm
    return norm(tokens)[:, model.num_prefix_tokens :].unflatten(1, model.patch_embed.grid_size)


def _known(model: nn.Module) -> Family:
    found = family(model)
    assert found is not None, f"{type(model).__name__} is of no family; injection refuses it"
    return found


def hold_still(model: Any) -> None:
    """Keeps a model in training mode from moving the coordinates of its rotary embedding at random, since it is frozen."""
    if getattr(model, "rope", None) is not None:
        model.rope.eval()


def join_biases(block: nn.Module) -> None:
    """Makes attention call its qkv as a module, with one bias.

    EVA and BEiT keep the biases of query and value (and a zero for the key) apart, and read no more than the weight of qkv. An edit
    around qkv would not be called.
    """
    import torch

    attention: Any = getattr(block, "attn", None)
    if getattr(attention, "q_bias", None) is not None:
        bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias]).to(attention.qkv.weight.dtype)
        attention.qkv.bias = torch.nn.Parameter(bias, requires_grad=False)
        attention.q_bias = attention.k_bias = attention.v_bias = None


def part_biases(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a model with `join_biases` undone, so that timm's own model reads it.

    Raises ValueError if the key has a bias, which timm's model has not.
    """
    state = dict(state)
    for name, module in model.named_modules():
        bias = f"{name}.qkv.bias"
        if hasattr(module, "qkv_bias_separate") and bias in state:
            q, k, v = state.pop(bias).chunk(3)
            if k.any():
                raise ValueError(f"{name} of timm's {type(model).__name__} has no bias of the key, and this model needs one")
            state |= {f"{name}.q_bias": q, f"{name}.v_bias": v}
    return state
