"""A tiny model of every family of backbones, with random weights, and the table of docs/backbones.md.

`python -m tests.helpers.families` writes the table anew.
"""

from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch

from adapters.errors import AdapterError
from adapters.injection import inject
from pvera.models.class_token import ClassTokenBlock, class_token_only
from tests.helpers.models import EIGHT, SIZE, adapter

PAGE = Path(__file__).parents[2] / "docs" / "backbones.md"

#: timm's name, and the settings that make it tiny, by the name of the family in docs/backbones.md.
_TINY: dict[str, Any] = {"img_size": SIZE, "patch_size": 8, "embed_dim": 32, "num_heads": 2, "depth": 2}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT, MAE": ("vit_base_patch16_224", {}),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", {}),
    "CLIP": ("vit_base_patch16_clip_quickgelu_224", {}),
    "SigLIP, SigLIP 2": ("vit_base_patch16_siglip_224", {}),
    "AIMv2": ("aimv2_large_patch14_224", {}),
    "RADIO": ("vit_base_patch16_radio_v3", {}),
    "BEiT 3": ("beit3_base_patch16_224", {}),
    "distilled DeiT": ("deit_tiny_distilled_patch16_224", {}),
    "DINOv3 S, B, L": ("vit_small_patch16_dinov3", {}),
    "DINOv3 with biases": ("vit_base_patch16_dinov3_qkvb", {}),
    "DINOv3 S+, H+": ("vit_small_plus_patch16_dinov3", {}),
    "Sapiens 2": ("vit_base_patch16_sapiens2", {"num_heads": 4, "num_kv_heads": (2, 4), "embed_dim": 32}),
    "Perception Encoder": ("vit_pe_core_tiny_patch16_384", {"attn_pool_num_heads": 2, "ref_feat_shape": (2, 2)}),
    "EVA": ("eva_giant_patch14_224", {}),
    "EVA-02 S": ("eva02_small_patch14_224", {}),
    "EVA-02 B, L": ("eva02_base_patch14_224", {}),
    "EVA-02 E": ("eva02_enormous_patch14_clip_224", {}),
    "rotary ViT": ("vit_small_patch16_rope_mixed_ape_224", {}),
    "BEiT, BEiT v2": ("beitv2_base_patch16_224", {}),
}


def settings_of(family: str) -> tuple[str, dict[str, Any]]:
    """timm's name and the arguments of a tiny model."""
    name, settings = FAMILIES[family]
    fixed = {} if name.startswith("beitv2") else {"dynamic_img_size": False}
    return name, _TINY | fixed | settings


@cache
def tiny(family: str) -> Any:
    """A frozen model of the family, of width 32 with 2 blocks, whose weights are large enough for every part of it to matter."""
    name, settings = settings_of(family)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=0, **settings)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if key.endswith("weight") and parameter.ndim > 1:
                    parameter.normal_(0, parameter[0].numel() ** -0.5)
                elif key.endswith(("weight", "gamma", "gamma_1", "gamma_2")):
                    parameter.uniform_(0.5, 1.5)
                else:
                    parameter.normal_(0, 0.3)
    return model.requires_grad_(False).eval()


@cache
def refusal(family: str, name: str) -> str | None:
    """The line that refuses an adapter on a family; None if it works."""
    try:
        inject(tiny(family), adapter(name))
    except AdapterError as error:
        return str(error)
    return None


def shortens(family: str) -> bool:
    """Whether the last block of such a model is computed for the class token alone."""
    copied = inject(tiny(family), adapter("linear_probe"))
    return isinstance(class_token_only(copied, adapter("lora")).blocks[-1], ClassTokenBlock)


def page_with_table(page: str) -> str:
    """The page with its table of families and adapters, between the two lines of dashes, as the code has it now."""
    lines = [
        "| family | for example | class | pooling | last block |" + "".join(f" {name} |" for name in EIGHT),
        "|--" * (5 + len(EIGHT)) + "|",
    ]
    reasons = {}
    for family, (name, _) in FAMILIES.items():
        model, works = tiny(family), []
        for new in EIGHT:
            reason = refusal(family, new)
            works.append(f"no ({reasons.setdefault(reason, len(reasons) + 1)})" if reason else "yes")
        last = "class token" if shortens(family) else "whole"
        lines.append(
            f"| {family} | `{name}` | {type(model).__name__} | {model.global_pool} | {last} |" + "".join(f" {word} |" for word in works)
        )
    notes = [f"({number}) {reason}" for reason, number in reasons.items()]
    before, _, rest = page.partition(START)
    return "\n".join([before + START, "", *lines, "", *notes, "", STOP + rest.partition(STOP)[2]])


START, STOP = "<!-- table -->", "<!-- end of the table -->"

if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
