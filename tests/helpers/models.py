"""Tiny models and the table of cases that the tests of the adapters share."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import adapters
from adapters import families
from adapters.base import Adapter, LowRank
from adapters.injection import Edit, edit_at, edits, find_sites, sampling
from pvera.config import switches
from pvera.models.classifier import Classifier, build, trainable

torch.set_num_threads(1)  # the models are so small that a second thread only waits

CONFIGS = Path(__file__).parents[2] / "configs"
WIDTH, HIDDEN, DEPTH, CLASSES, SIZE = 32, 96, 2, 5, 16
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

#: The switches of the released code, by name; the task's KL weight becomes a number.
RELEASED = OmegaConf.to_container(OmegaConf.load(CONFIGS / "protocol" / "released.yaml"), resolve=False)
RELEASED = {key: value for key, value in RELEASED.items() if key not in ("defaults", "name")} | {"kl_weight": 1e-6}


def recipe(protocol: str) -> dict:
    """The trainer's settings under a protocol that says which trainer it takes, as its file and the trainer's have them."""
    own = OmegaConf.load(CONFIGS / "protocol" / f"{protocol}.yaml")
    [trainer] = [entry["override /trainer"] for entry in own.defaults if "override /trainer" in entry]
    values = OmegaConf.merge(OmegaConf.load(CONFIGS / "trainer" / f"{trainer}.yaml"), own.get("trainer", {}), {"protocol": own.protocol})
    settings = OmegaConf.to_container(values, resolve=True)
    return {key: value for key, value in settings.items() if key not in ("defaults", "protocol")}


#: The methods of the paper; the tests of the contract take every other method too.
EIGHT = ("adaptformer", "bottleneck", "dora", "ia3", "linear_probe", "lora", "pvera", "vera")


def released(method: type[Adapter]) -> dict:
    """The switches that a method has, with the values of the released code."""
    return {name: RELEASED[switch] for name, switch in switches(method).items() if switch in RELEASED}


def adapter(name: str, **settings) -> Adapter:
    """A method at the first point of its grid, with a rank of at most a quarter of the width."""
    method = adapters.methods()[name]
    [(point, first), *_] = method().points()
    rank = {"rank": min(first.rank, WIDTH // 4)} if isinstance(first, LowRank) else {}
    return method(**point | rank | settings)


#: Every method as `corrected` has it (the default), and as `released` has it where that differs.
CASES: dict[str, Adapter] = {f"{name}-corrected": adapter(name) for name in adapters.methods()}
CASES |= {f"{name}-released": adapter(name, **released(method)) for name, method in adapters.methods().items() if released(method)}
#: Other forms of a method: PVeRA with each other posterior family, and with priors that are trained.
CASES |= {
    "fact-tk": adapter("fact", variant="tk"),
    "vpt-shallow": adapter("vpt", deep=False),
    "pvera-laplace": adapter("pvera", posterior="laplace", prior_sigma=0.5),
    "pvera-student_t": adapter("pvera", posterior="student_t", learn_df=True),
    "pvera-mixture": adapter("pvera", posterior="mixture", kl_weight=0.1),
    "pvera-learned": adapter("pvera", prior="learned"),
    "pvera-learned_per_layer": adapter("pvera", prior="learned_per_layer", init="orthogonal"),
}

_FIRST: dict[tuple, str] = {}
for _name, _new in CASES.items():
    _FIRST.setdefault((*_new.sites(), _new.tokenwise, _new.mergeable), _name)
#: The cases for the fast tests of what depends on a method's kind of edit alone: the eight, DoRA as released, whose edit recomputes the
#: frozen layer, and one for every other choice of sites and properties; and whatever PVERA_ADAPTERS adds.
KINDS = {f"{name}-corrected" for name in EIGHT} | {"dora-released"} | set(_FIRST.values())
KINDS |= {f"{name}-corrected" for name in adapters.methods() if not (CONFIGS.parent / "adapters" / "zoo" / f"{name}.py").exists()}


def each(cases: Mapping[str, Adapter]) -> list:
    """The cases as parameters of a test. Those that are not in KINDS are slow."""
    return [pytest.param(new, id=name, marks=() if name in KINDS else pytest.mark.slow) for name, new in cases.items()]


def vit(seed: int = 0, **settings) -> VisionTransformer:
    """A frozen tiny ViT whose weights are large enough for every part of it to matter (timm's own start hides attention)."""
    shape = {"img_size": SIZE, "patch_size": 8, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": 2, "mlp_ratio": HIDDEN / WIDTH}
    model = VisionTransformer(**shape | {"init_values": 1.0, "num_classes": 0, "global_pool": "token"} | settings)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight") and parameter.ndim > 1:  # Linear and convolution
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
            elif name.endswith(("weight", "gamma")):  # LayerNorm and LayerScale
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.normal_(0, 0.3, generator=generator)
    return model.requires_grad_(False).eval()


#: Path of each target in a block of `vit`.
PATHS = {target: place.path for target in families.SITES for place in families.places(vit().blocks[0], target).values()}


def classifier(new: Adapter, backbone: nn.Module | None = None, seed: int = 0, bf16: bool = False, drop_path: float = 0.0) -> Classifier:
    return build(backbone or vit(), new, CLASSES, HALF, seed, bf16=bf16, drop_path=drop_path)


def new_parameters(backbone: nn.Module, new) -> int:
    """Counts on the meta device, where nothing is drawn or held."""
    if new.whole:
        return sum(p.numel() for p in backbone.parameters())
    with torch.device("meta"):
        sites = find_sites(backbone, new)
        shared = new.init_shared(sites, 0) if sites else None
        values = [value for site in sites for value in new.init_params(site, shared).values()]
    modules = {id(p): p.numel() for value in values if isinstance(value, nn.Module) for p in value.parameters()}  # a prior can be shared
    return sum(modules.values()) + sum(value.numel() for value in values if isinstance(value, nn.Parameter))


def batch(count: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images (count, 16, 16, 3) in uint8 and labels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, SIZE, SIZE, 3), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, CLASSES, (count,), generator=generator)


def backward(model: Classifier, new: Adapter) -> Tensor:
    """The gradients of one batch's loss, as the training loop takes them; returns the loss."""
    images, labels = (tensor.to(model.mean.device) for tensor in batch())
    model.train().zero_grad()
    loss = nn.functional.cross_entropy(model(images), labels) + new.penalty(model)
    loss.backward()
    return loss.detach()


def train(model: Classifier, new: Adapter, steps: int = 4, lr: float = 0.02) -> Classifier:
    """A few steps of AdamW without weight decay, so that only what has a gradient moves."""
    optimizer = torch.optim.AdamW([p for _, p in trainable(model)], lr=lr, weight_decay=0)
    for _ in range(steps):
        backward(model, new)
        optimizer.step()
    return model.eval()


def randomise(model: nn.Module, seed: int = 1) -> nn.Module:
    """Moves every trained parameter of the edits away from its start, as training would, by a normal draw of a tenth."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for edit in edits(model):
            for parameter in edit.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.device))
    return model


def edits_of(model: nn.Module, target: str) -> list[Edit]:
    """The edits of a target in every block."""
    return [edit_at(block, target) for block in model.blocks]


def logits(model: Classifier, images: Tensor) -> Tensor:
    """In evaluation mode, without a graph."""
    with torch.no_grad():
        return model.eval()(images)


def probe(model: Classifier) -> Classifier:
    """The model's head on the backbone without any edit."""
    return Classifier(vit(), model.head, *HALF, bf16=False)


def latents(model, new, images) -> list[tuple[Tensor, Tensor]]:
    """Mean and log variance of every branch, block by block, from the inputs of qkv."""
    inputs: list[Tensor] = []
    hooks = [block.attn.qkv.register_forward_pre_hook(lambda module, args: inputs.append(args[0])) for block in model.backbone.blocks]
    with sampling(model, "mean"):
        model.train()(images)
    for hook in hooks:
        hook.remove()
    latent = [
        (x @ edit_at(block, t).A) * edit_at(block, t).d for x, block in zip(inputs, model.backbone.blocks, strict=True) for t in new.targets
    ]
    return [(both[..., : new.rank], both[..., new.rank :]) for both in latent]
