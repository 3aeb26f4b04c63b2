"""The methods that PEFT has too: what their tensors and settings are called there."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Method:
    """One adapter as PEFT has it."""

    peft_type: str
    tensors: dict[str, str]
    """Our part of an edit, and PEFT's tensor beside the adapted module. A, B and d may be of several branches side by side."""
    pair: dict[str, str] = field(default_factory=dict)
    """The same for frozen projections, one pair for the whole model."""
    settings: dict[str, str] = field(default_factory=dict)
    """PEFT's setting, and our hyper-parameter of the same meaning."""
    fixed: dict[str, Any] = field(default_factory=dict)
    """PEFT's settings that have one value for this method."""
    implied: dict[str, Any] = field(default_factory=dict)
    """Our hyper-parameters that have one value in PEFT."""


_VERA = {"r": "rank", "d_initial": "d_initial"}
_LORA = {"A": "lora_A.weight", "B": "lora_B.weight"}

#: By our adapter's name.
METHODS = {
    "lora": Method("LORA", _LORA, settings={"r": "rank", "lora_alpha": "alpha"}, fixed={"use_dora": False}),
    "dora": Method(
        "LORA",
        _LORA | {"m": "lora_magnitude_vector"},
        settings={"r": "rank", "lora_alpha": "alpha"},
        fixed={"use_dora": True},
        implied={"released_norm": False},
    ),
    "vera": Method(
        "VERA",
        {"d": "vera_lambda_d", "b": "vera_lambda_b"},
        pair={"A": "base_model.vera_A", "B": "base_model.vera_B"},
        settings=_VERA | {"vera_dropout": "dropout"},
        implied={"scale": 1.0, "projections": "shared"},
    ),
    "pvera": Method(
        "PVERA",
        {"d": "pvera_lambda_d", "b": "pvera_lambda_b"},
        pair={"A": "base_model.pvera_A", "B": "base_model.pvera_B"},
        settings=_VERA | {"pvera_dropout": "dropout"},
        implied={"scale": 1.0, "projections": "shared"},
    ),
    "ia3": Method("IA3", {"gain": "ia3_l"}),
}

#: PEFT's settings that say where a checkpoint came from, how it starts or what it does elsewhere: its tensors say the rest.
WITHOUT_EFFECT = {
    "auto_mapping", "base_model_name_or_path", "revision", "peft_type", "peft_version", "task_type", "inference_mode",
    "target_modules", "layers_to_transform", "exclude_modules", "feedforward_modules", "modules_to_save",
    "init_weights", "init_ia3_weights", "projection_prng_key", "save_projection", "sample_at_inference", "generator_seed",
}  # fmt: skip
