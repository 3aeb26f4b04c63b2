"""From a trained model to a PEFT checkpoint.

PEFT's VeRA and PVeRA have one pair A, B for all layers, cut to the size of each layer. K pairs of ours, one for each branch, are written
as one: A and d of the branches are stacked, B gets the columns of all branches, and d is zero for the branches that a layer lacks. timm's
fused query, key and value are written in the same way: the rows of one branch in B have zeros in the columns of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from adapters import families
from adapters.base import Adapter, LowRank
from adapters.injection import edit_at
from adapters.zoo.lora import LoRA
from adapters.zoo.pissa import PiSSA
from pvera.errors import UserError
from pvera.exchange.methods import METHODS, NOT_WRITTEN
from pvera.models import layouts
from pvera.models.classifier import Classifier
from pvera.models.layouts import LAYOUTS, Layout

#: By our name of a part: from the frozen weight (d_out, d_in) of a branch without an edit to the vector (d_out,) that changes nothing.
_NEUTRAL: dict[str, Callable[[Tensor], Tensor]] = {
    "b": lambda weight: weight.new_zeros(len(weight)),
    "gain": lambda weight: weight.new_ones(len(weight)),
    "m": lambda weight: weight.norm(dim=1),
}


def write(model: Classifier, adapter: Adapter, folder: Path, layout: str, origin: dict[str, str], *, sample: bool) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors` into an existing folder.

    layout  the model on which PEFT will load it, a key of `LAYOUTS`
    origin  goes into the metadata of the tensors
    sample  PEFT's setting `sample_at_inference`

    Raises UserError, before anything is written, if PEFT cannot express the adapter.
    """
    if reason := lacks(adapter):
        raise UserError(reason)
    if stranger := layouts.stranger(model.backbone, adapter.sites()):
        raise UserError(f"PEFT's checkpoints are written for plain ViTs alone, and {stranger}: export it with --to timm")
    if hasattr(model.backbone, "head_dist"):
        raise UserError("PEFT keeps one classifier, and a distilled DeiT has two: export it with --to timm")
    if adapter.name == "oft" and any(LAYOUTS[layout].place(target).of > 1 for target in adapter.sites()):
        raise UserError("PEFT has one rotation for timm's fused query, key and value, and oft one for each: export it with --model hf")
    export = _Export(model, _as_lora(adapter), LAYOUTS[layout])
    if sample:
        export.check_sampling()
    tensors = {name: tensor.detach().float().cpu().contiguous().clone() for name, tensor in export.tensors().items()}
    config = export.config(sample)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"} | origin)
    config.save_pretrained(str(folder))


def lacks(adapter: Adapter) -> str | None:
    """Why no PEFT checkpoint is written of an adapter, in one line; None if one is."""
    if reason := NOT_WRITTEN.get(adapter.name):
        return f"{adapter.name} is not written for PEFT: {reason}" + ("; --to timm writes merged weights" if adapter.mergeable else "")
    kind: Any = type(adapter)
    is_lora = isinstance(adapter, LoRA | PiSSA) and kind.edit is LowRank.edit and kind.delta in (LoRA.delta, PiSSA.delta)
    if adapter.name not in METHODS and not is_lora:
        return f"PEFT has no {adapter.name}; it has {', '.join(METHODS)}"
    if getattr(adapter, "released_norm", False):
        return "PEFT has no DoRA with a magnitude per input (released_norm): train with adapter.released_norm=false"
    return None


def _as_lora(adapter: Any) -> Any:
    """The LoRA with the update of rsLoRA, PiSSA, or a LoRA of a fixed scale; any other adapter as it is."""
    if not isinstance(adapter, LoRA | PiSSA):
        return adapter
    rank = 2 * adapter.r if isinstance(adapter, PiSSA) else adapter.r
    return LoRA(rank=rank, alpha=float(adapter.factor * rank), targets=adapter.targets, layers=adapter.layers)


def _edit_at(block: nn.Module, target: str) -> Any:
    """The edit of a target; PiSSA's A B - A0 B0 as a single product."""
    edit: Any = edit_at(block, target)
    if not isinstance(edit.adapter, PiSSA):
        return edit
    return SimpleNamespace(A=torch.cat([edit.A, edit.A0], dim=1), B=torch.cat([edit.B, -edit.B0]))


class _Export:
    """A trained model in PEFT's terms."""

    def __init__(self, model: Classifier, adapter: Any, layout: Layout) -> None:
        self.model, self.adapter, self.method, self.layout = model, adapter, METHODS[adapter.name], layout
        self.blocks = model.backbone.blocks
        self.indices = range(len(self.blocks)) if adapter.layers is None else adapter.layers
        self.modules: dict[str, list[str]] = {}
        """Adapted targets by the path of their module in a block."""
        for target in adapter.sites():
            self.modules.setdefault(layout.place(target).path, []).append(target)
        fused = any(layout.place(target).of > 1 for target in adapter.sites())
        one_pair = getattr(adapter, "projections", None) == "shared" and not fused
        self.groups: list[list[str]] = [list(adapter.sites())] if one_pair else [[target] for target in adapter.sites()]
        """Targets that share a pair A, B, in the order of their columns in PEFT's pair."""
        self.halves = adapter.latent // adapter.rank if self.method.pair else 1
        """Columns of A for each rank: 2 for a mean and a log variance, else 1."""

    def check_sampling(self) -> None:
        """Raises UserError if PEFT's samples would have another distribution than ours."""
        if self.adapter.name != "pvera":
            raise UserError(f"only pvera samples, and this is {self.adapter.name}: leave --sample out")
        if self.adapter.posterior != "gaussian":
            raise UserError(f"PEFT samples a Gaussian, and adapter.posterior is {self.adapter.posterior}: leave --sample out for the mean")
        if len(self.groups) > 1 and len(self.modules) > 1:
            raise UserError(
                "PEFT cannot sample pairs A, B per branch: in its one pair, a branch that a layer lacks has sigma 1, not 0; "
                "leave --sample out for the mean, or train with adapter.projections=shared"
            )

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the checkpoint, by PEFT's names."""
        out: dict[str, Tensor] = {
            f"base_model.model.{self.layout.head}.{name}": value for name, value in self.model.head.named_parameters()
        }
        for index in self.indices:
            for path, targets in self.modules.items():
                for part, value in self._at_module(self.blocks[index], path, targets):
                    out[f"base_model.model.{self.layout.block.format(index)}.{path}.{self.method.tensors[part]}"] = value
        if self.method.pair:
            first = self.blocks[self.indices[0]]
            edits: dict[str, Any] = {target: edit_at(first, target) for target in self.adapter.sites()}
            d_in = max(edit.A.shape[0] for edit in edits.values())
            d_out = max(self.layout.place(target).of * edit.B.shape[1] for target, edit in edits.items())
            out |= {self.method.pair[part]: value for part, value in self._pair(edits, self.groups, d_in, d_out).items()}
        return out

    def _at_module(self, block: nn.Module, path: str, targets: list[str]) -> Iterator[tuple[str, Tensor]]:
        """PEFT's tensors at one module, by our name of the part."""
        edits: dict[str, Any] = {target: _edit_at(block, target) for target in targets}
        if {"A", "B"} <= self.method.tensors.keys():
            first = edits[targets[0]]
            d_in, d_out = first.A.shape[0], first.B.shape[1] * len(self.layout.modules[path])
            yield from self._pair(edits, [[target] for target in edits], d_in, d_out).items()
        if "d" in self.method.tensors:
            yield "d", self._stacked(edits)
        if "angles" in self.method.tensors:
            [edit] = edits.values()
            yield "angles", edit.angles
        for part in _NEUTRAL.keys() & self.method.tensors.keys():
            yield part, self._rows(block, path, edits, part)

    def _pair(self, edits: dict[str, Any], groups: list[list[str]], d_in: int, d_out: int) -> dict[str, Tensor]:
        """A (halves * K * r, d_in) and B (d_out, K * r) of K groups: the largest A and B of each, B at the rows of its branch."""
        r = self.adapter.rank
        like = next(iter(edits.values())).A
        a, b = like.new_zeros(self.halves, len(groups), r, d_in), like.new_zeros(d_out, len(groups), r)
        for k, group in enumerate(groups):
            for target in sorted(group, key=lambda t: edits[t].A.shape[0]):
                a[:, k, :, : edits[target].A.shape[0]] = edits[target].A.T.unflatten(0, (self.halves, r))
            for target in sorted(group, key=lambda t: edits[t].B.shape[1]):
                rows = edits[target].B.shape[1]
                start = rows * self.layout.place(target).stack
                b[start : start + rows, k] = edits[target].B.T
        return {"A": a.flatten(0, 2), "B": b.flatten(1)}

    def _stacked(self, edits: dict[str, Any]) -> Tensor:
        """d (halves * K * r,) of one module: zero for the groups in which the module has no branch."""
        zeros = torch.zeros_like(next(iter(edits.values())).d)
        d = torch.stack([next((edits[target].d for target in group if target in edits), zeros) for group in self.groups])
        return d.unflatten(1, (self.halves, -1)).transpose(0, 1).flatten()

    def _rows(self, block: nn.Module, path: str, edits: dict[str, Any], part: str) -> Tensor:
        """A vector over the outputs of one module (for IA3's fc2: its inputs), neutral for a branch without an edit."""
        if "act" in edits:
            return edits["act"].gain[None]
        pieces = []
        for stack, target in enumerate(self.layout.modules[path]):
            if target in edits:
                value = getattr(edits[target], part)
                pieces.append(self.adapter.scale * value if part == "b" else value)
            else:
                adapted: Any = block.get_submodule(families.places(block, target)[target].path)
                pieces.append(_NEUTRAL[part](adapted.base.weight.chunk(len(self.layout.modules[path]))[stack]))
        rows = torch.cat(pieces)
        return rows[:, None] if part == "gain" else rows

    def config(self, sample: bool) -> Any:
        """PEFT's own configuration object."""
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        kind: Any = PEFT_TYPE_TO_CONFIG_MAPPING[self.method.peft_type]  # type: ignore[index]
        settings = {theirs: getattr(self.adapter, ours) for theirs, ours in self.method.settings.items()} | self.method.fixed
        settings = {name: value for name, value in settings.items() if value is not None}
        wide = {path: len(targets) for path, targets in self.modules.items() if len(targets) > 1}
        if self.method.pair:
            settings["r"] *= len(self.groups)
        elif isinstance(self.adapter, LowRank) and wide:
            # A fused layer has r columns for each of its branches; the ratio alpha / r stays.
            if len(self.modules) == len(wide):
                settings |= {name: settings[name] * n for n in wide.values() for name in ("r", "lora_alpha")}
            else:
                settings["rank_pattern"] = {path: settings["r"] * n for path, n in wide.items()}
                settings["alpha_pattern"] = {path: settings["lora_alpha"] * n for path, n in wide.items()}
        if self.method.peft_type == "IA3":
            settings["feedforward_modules"] = self._paths(["act"])
        if self.adapter.name == "pvera":
            settings["sample_at_inference"] = sample
        return kind(target_modules=self._paths(self.adapter.sites()), modules_to_save=[self.layout.head], inference_mode=True, **settings)

    def _paths(self, targets: Iterable[str]) -> list[str]:
        """The modules of the targets: their paths in every block, or their full names if only some blocks are adapted."""
        paths = dict.fromkeys(self.layout.place(target).path for target in targets)
        if self.adapter.layers is None:
            return list(paths)
        return [f"{self.layout.block.format(index)}.{path}" for index in self.indices for path in paths]
