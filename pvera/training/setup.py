"""The models of a run: its frozen backbone, and a learner for each grid point."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from adapters.base import Adapter
from pvera.config import Run
from pvera.exchange.read import initialise
from pvera.models.class_token import class_token_only
from pvera.models.classifier import build, hold_in_bf16
from pvera.training.learner import Learner


def frozen_backbone(run: Run, device: torch.device) -> nn.Module:
    """The run's backbone, ready for edits: on the device and in the run's precision."""
    return placed(class_token_only(run.backbone.create(run.image_size), run.adapter), run, device)


def placed(backbone: nn.Module, run: Run, device: torch.device) -> nn.Module:
    """The backbone on the device, held in bf16 where the run computes in it and does not train the backbone itself."""
    backbone = backbone.to(device)
    return hold_in_bf16(backbone) if run.precision == "bf16" and not run.adapter.whole else backbone


def learner(run: Run, adapter: Adapter, backbone: nn.Module, epochs: int | None = None) -> Learner:
    """A learner at its start, for one grid point's adapter; trained for the run's number of epochs, or for `epochs`."""
    model = build(
        backbone, adapter, run.task.classes, run.normalisation(), run.seed,
        bf16=run.precision == "bf16", drop_path=run.trainer.drop_path,
    )  # fmt: skip
    if adapter.checkpoint:
        initialise(model, adapter)
    if run.compile:
        model.compile_blocks()
    return Learner(model, adapter, run.trainer if epochs is None else replace(run.trainer, epochs=epochs), run.protocol, run.seed)
