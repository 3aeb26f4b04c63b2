"""From a trained model to plain weights for timm, with the adapter merged into them."""

from pathlib import Path

from safetensors.torch import save_file

from adapters import families
from adapters.merge import merged
from pvera.errors import UserError
from pvera.models.classifier import Classifier


def write(model: Classifier, file: Path) -> None:
    """Writes the state dict of timm's model with a classifier. Raises UserError if timm's model cannot hold the merged adapter."""
    known = {".".join(part for part in name.split(".") if part != "base") for name in model.backbone.state_dict()}
    try:
        with merged(model):
            if new := sorted(model.backbone.state_dict().keys() - known):
                raise UserError(f"the adapter cannot be merged for timm: its {type(model.backbone).__name__} has no {new[0]}")
            state = families.part_biases(model.backbone, model.backbone.state_dict())
            state = {name: tensor.contiguous().clone() for name, tensor in state.items()}
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from None
    # A distilled DeiT has two classifiers and averages their logits; ours reads the mean of their two tokens.
    heads = ("head", "head_dist") if hasattr(model.backbone, "head_dist") else ("head",)
    state |= {f"{head}.{name}": tensor.clone() for head in heads for name, tensor in model.head.state_dict().items()}
    save_file(state, file, metadata={"format": "pt"})
