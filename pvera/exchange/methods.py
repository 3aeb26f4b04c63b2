"""The adapters that PEFT has too, with PEFT's names for their tensors and settings."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Method:
    """PEFT's form of one adapter. Our names for tensors are those of an edit's parts, our names for settings the adapter's fields."""

    peft_type: str
    tensors: dict[str, str]
    """Our name of a part to PEFT's tensor at the adapted module. A, B and d may hold several branches in a row."""
    pair: dict[str, str] = field(default_factory=dict)
    """The same for the frozen projections A, B of VeRA and PVeRA: PEFT has one pair for the whole model."""
    settings: dict[str, str] = field(default_factory=dict)
    """PEFT's name of a setting to ours."""
    fixed: dict[str, Any] = field(default_factory=dict)
    """PEFT's settings with a single value for this adapter."""
    implied: dict[str, Any] = field(default_factory=dict)
    """Our settings with a single value in PEFT."""


_LORA = {"A": "lora_A.weight", "B": "lora_B.weight"}
_LORA_SETTINGS = {"r": "rank", "lora_alpha": "alpha"}


def _vera(peft_type: str) -> Method:
    name = peft_type.lower()
    return Method(
        peft_type,
        tensors={"d": f"{name}_lambda_d", "b": f"{name}_lambda_b"},
        pair={"A": f"base_model.{name}_A", "B": f"base_model.{name}_B"},
        settings={"r": "rank", "d_initial": "d_initial", f"{name}_dropout": "dropout"},
        implied={"scale": 1.0, "projections": "shared"},
    )


#: By the name of our adapter.
METHODS = {
    "lora": Method("LORA", _LORA, settings=_LORA_SETTINGS, fixed={"use_dora": False, "use_rslora": False}, implied={"scale": None}),
    # Read alone: what is written of it is a LoRA.
    "rslora": Method("LORA", _LORA, settings=_LORA_SETTINGS, fixed={"use_dora": False, "use_rslora": True}, implied={"scale": None}),
    "dora": Method(
        "LORA",
        _LORA | {"m": "lora_magnitude_vector"},
        settings=_LORA_SETTINGS,
        fixed={"use_dora": True, "use_rslora": False},
        implied={"released_norm": False},
    ),
    "vera": _vera("VERA"),
    "pvera": _vera("PVERA"),
    "ia3": Method("IA3", {"gain": "ia3_l"}),
    "oft": Method(
        "OFT",
        {"angles": "oft_R.weight"},
        settings={"oft_block_size": "block_size"},
        fixed={"use_cayley_neumann": False, "coft": False, "block_share": False},
    ),
}

#: Why the others of PEFT's methods are not written, by the name of our adapter.
NOT_WRITTEN = {
    "layernorm": "PEFT's LN_TUNING keeps whole norms, and so does a plain model",
    "peft": "its layers are PEFT's, but around Linears that are named otherwise",
    "vpt": "PEFT's prompt tuning is for language models",
}

#: PEFT's settings that change no output of a trained checkpoint: its origin, its initialisation, its training, or the choice of layers,
#: which is read off the names of the tensors.
WITHOUT_EFFECT = {
    "auto_mapping", "base_model_name_or_path", "revision", "peft_type", "peft_version", "task_type", "inference_mode",
    "target_modules", "layers_to_transform", "exclude_modules", "feedforward_modules", "modules_to_save", "lora_dropout",
    "init_weights", "init_ia3_weights", "eva_config", "projection_prng_key", "save_projection", "sample_at_inference", "generator_seed",
}  # fmt: skip

#: The values of LoRA's `init_lora_weights` that leave the frozen weights as they are. Others (pissa, olora, corda, loftq, ...) change them,
#: so their adapters do not fit the original weights.
HARMLESS_INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal")
