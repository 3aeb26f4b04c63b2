"""The tuners of the PEFT library (https://huggingface.co/docs/peft) that work on a Linear."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from typing import Any
from zlib import crc32

from adapters.base import LINEAR_TARGETS, OnLinears, Site, Tensor
from adapters.errors import AdapterError

#: PEFT's types that are refused, and why.
REFUSED = {
    "ADALORA": "it moves ranks between layers from step to step, which is a training loop of its own",
    "ADAPTION_PROMPT": "it adds prompts to the attention of language models",
    "LILY": "its router averages over the batch, so the logits of an image would depend on the other images",
    "LN_TUNING": "it trains norms, as adapter=layernorm does",
    "POLY": "it mixes the adapters of several tasks",
    "SHADOW": "it adds a second transformer beside a language model",
    "TRAINABLE_TOKENS": "it trains rows of an embedding of words",
    "XLORA": "it mixes several trained adapters of a language model",
} | dict.fromkeys(
    ("CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "PROMPT_TUNING"),
    "it trains prompts of a language model; adapter=vpt is for images",
)
#: PEFT's settings that cannot be set: `targets` and `layers` say what is adapted, and others are about language models. Of the last five,
#: sample_at_inference would test with unseeded noise, use_asa needs a training loop of its own, generator_seed is a random generator that
#: no resume file holds, PEFT turns boft_n_butterfly_factor back to 1 where its CUDA extension does not compile, and progressbar prints.
_NOT_SET = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision", "task_type",
    "target_modules", "exclude_modules", "feedforward_modules", "layers_to_transform", "layers_pattern", "modules_to_save",
    "target_parameters", "trainable_token_indices", "layer_replication", "alora_invocation_tokens", "megatron_core",
    "ensure_weight_tying", "fan_in_fan_out", "sample_at_inference", "use_asa", "generator_seed", "boft_n_butterfly_factor", "progressbar",
}  # fmt: skip
#: What else a type is told.
_FIXED: dict[str, dict[str, Any]] = {"FROD": {"progressbar": False}, "IA3": {"feedforward_modules": []}}
#: PEFT's settings with the seed of what a tuner draws and freezes: the run's, unless they are set.
_SEEDS = ("projection_prng_key", "projection_seed", "proj_seed", "random_loc_seed", "random_seed")


@dataclass
class Peft(OnLinears):
    """target = the output of PEFT's layer of the type `adapter.type` around the frozen Linear, with the settings `adapter.config`."""

    name: str = "peft"
    type: str = "LORA"
    """PEFT's name of the method, in any case: OFT, HRA, RANDLORA, ..."""
    config: dict[str, Any] = field(default_factory=dict)
    """Settings of PEFT's configuration of this type; those left out have PEFT's defaults."""

    linears = (*LINEAR_TARGETS, "qkv")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("targets", not ("qkv" in self.targets and set("qkv") & set(self.targets)), "qkv, or some of q, k and v")
        self.type = self.type.upper()
        kinds = settings_by_type()
        if reason := REFUSED.get(self.type):
            raise AdapterError(f"adapter.type={self.type} does not run here, since {reason}; there are {', '.join(kinds)}")
        self.check_choice("type", tuple(kinds))
        known = sorted(kinds[self.type])
        if unknown := sorted(self.config.keys() - set(known)):
            raise AdapterError(f"adapter.config.{unknown[0]} is no setting of {self.type} here; there are {', '.join(known)}")
        if (start := self.config.get("init_lora_weights")) in ("corda", "eva", "loftq", "lora_ga"):
            raise AdapterError(f"adapter.config.init_lora_weights={start} takes a step of its own before the training: choose another")

    @property
    def mergeable(self) -> bool:  # type: ignore[override]
        return self.type != "ADAMSS"  # it computes in float32, and a merge in float64

    @property
    def label(self) -> str:
        return f"{self.name}_{self.type.lower()}"

    def init_shared(self, sites: list[Site], seed: int) -> dict[str, Any]:
        """PEFT's layers by the names of the sites."""
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
        from torch import nn

        blocks: dict[str, dict[str, nn.Module]] = {}
        for site in sites:
            blocks.setdefault(str(site.block), {})[site.target] = _copy(site)
        linears: Any = nn.ModuleDict({block: nn.ModuleDict(targets) for block, targets in blocks.items()})
        kind: Any = self.type
        settings = {name: seed for name in _SEEDS if name in settings_by_type()[self.type]} | self.config
        settings |= _FIXED.get(self.type, {})
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", ".*Adjusted")  # PEFT takes another value than the one that is set
                config: Any = PEFT_TYPE_TO_CONFIG_MAPPING[kind](target_modules=[site.name for site in sites], **settings)
                PEFT_TYPE_TO_TUNER_MAPPING[kind](linears, config, "default")
        except Exception as error:
            raise AdapterError(f"PEFT refuses adapter.type={self.type} with adapter.config={self.config}: {_line(error)}") from error
        layers = {site.name: linears[str(site.block)][site.target] for site in sites}
        for site in sites:
            _share(layers[site.name].get_base_layer(), site)
        for module in linears.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                if not parameter.requires_grad:
                    delattr(module, name)
                    module.register_buffer(name, parameter.detach(), persistent=False)
        return layers

    def init_params(self, site: Site, shared: dict[str, Any]) -> dict[str, Any]:
        return {"layer": shared[site.name]}

    def edit(self, params: Any, x: Tensor, y: Tensor) -> Tensor:
        import torch

        return torch.compiler.disable(_output)(params, x)  # a compiled graph would draw from elsewhere


def settings_by_type() -> dict[str, set[str]]:
    """The types of PEFT that are not refused, each with the settings that can be set."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return {
        kind.value: {f.name for f in fields(config) if f.name not in _NOT_SET and not f.name.endswith(("_config", "_pattern"))}
        for kind, config in sorted(PEFT_TYPE_TO_CONFIG_MAPPING.items())
        if kind.value not in REFUSED
    }


def _copy(site: Site) -> Any:
    """The site's Linear with memory of its own, since some tuners change the weight that they start from."""
    from torch import nn

    linear = nn.Linear(site.d_in, site.d_out, site.bias is not None, device="meta")
    for name in ("weight", "bias"):
        if (frozen := getattr(site, name)) is not None:
            setattr(linear, name, nn.Parameter(frozen.float().clone(), requires_grad=False))
    return linear


def _share(linear: Any, site: Site) -> None:
    """Gives a copy of the site's Linear back the memory of what has not changed in it."""
    for name in ("weight", "bias"):
        frozen, own = getattr(site, name), getattr(linear, name)
        if frozen is not None and not own.requires_grad and (frozen.is_meta or bool((own == frozen).all())):
            own.data = frozen


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _output(params: Any, x: Tensor) -> Tensor:
    with _drawing_from(params.noise) if params.training else nullcontext():
        return params.layer(x)


@contextmanager
def _drawing_from(generator: Any) -> Iterator[None]:
    """Has what draws from torch's global generators, such as nn.Dropout, draw from this one.

    With a model on a GPU some of PEFT's layers draw on the CPU. That generator is then seeded by the state of this one.
    """
    import torch

    on_cpu = generator.device.type == "cpu"
    source: Any = torch if on_cpu else torch.get_device_module(generator.device)
    with torch.random.fork_rng(devices=[]):
        before = source.get_rng_state()
        if not on_cpu:
            torch.empty((), device=generator.device).uniform_(generator=generator)  # a state of its own for each call
            torch.default_generator.manual_seed(crc32(generator.get_state().numpy().tobytes()))
        source.set_rng_state(generator.get_state())
        try:
            yield
        finally:
            generator.set_state(source.get_rng_state())
            source.set_rng_state(before)
