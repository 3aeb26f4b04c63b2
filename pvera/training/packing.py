"""How many learners share one pass of the frozen backbone, and what happens when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from pvera.errors import UserError
from pvera.models import resources
from pvera.models.data import Data
from pvera.training.learner import Learner
from pvera.training.state import capture, restore

#: The terms of a learner's loss, given logits and labels of a batch: pvera.training.loop.losses.
Losses = Callable[[Learner, Tensor, Tensor], dict[str, Tensor]]


def fitting(learners: list[Learner], data: Data, losses: Losses, share: float = 0.8) -> int:
    """How many learners one pass has memory for, by the memory that a step of the first one takes. The step leaves no trace.

    One, if there is not even memory for that step: its epoch then says so.
    """
    if len(learners) == 1:
        return 1
    first, device = learners[0], data.labels.device
    noise = first.model.noise
    undrawn = noise.get_state() if noise else None
    batch = slice(0, first.trainer.batch_size)
    resources.reset_peak_memory(device)
    before = resources.memory(device)
    try:
        # Size 0 says that this is not one of many batches of a size: one step is not worth a compilation.
        logits = first.model.train().batch(data.images[batch], 0)
        sum(losses(first, logits, data.labels[batch]).values()).backward()  # type: ignore[union-attr]
    except Exception as error:
        if not resources.out_of_memory(error):
            raise
        return 1
    finally:
        first.forget()
        if noise and undrawn is not None:
            noise.set_state(undrawn)
    step = max(1, resources.peak_memory(device) - before)
    return max(1, min(len(learners), int(share * resources.free_memory(device) / step)))


@dataclass
class Packing:
    """The number of learners in one pass at most. It is halved when memory runs out."""

    size: int | None = None
    """None: as many as fit into memory."""

    def choose(self, learners: list[Learner], data: Data, losses: Losses) -> None:
        """Sets the size from the free memory, unless it is set. Models with backbones of their own have no pass to share."""
        self.size = 1 if learners[0].adapter.whole else self.size or fitting(learners, data, losses)

    def passes(self, learners: list[Learner]) -> Iterator[list[Learner]]:
        """Splits the learners into passes of one epoch each.

        The members of a pass that was `interrupted` are put back to where they were before it, and are given again in smaller passes.
        """
        waiting = learners
        while waiting:
            members = waiting[: self.size or len(waiting)]
            before = [capture(learner) for learner in members] if len(members) > 1 else []
            self._interrupted = False
            yield members
            if not self._interrupted:
                waiting = waiting[len(members) :]
                continue
            # By now the exception is gone, and its traceback no longer holds on to the tensors of the step. The edits still do.
            self.size = (len(members) + 1) // 2
            for learner, state in zip(members, before, strict=True):
                learner.forget()
                restore(learner, state)
                learner.events.append(f"out of memory in epoch {learner.epochs + 1}: from {len(members)} in one pass to {self.size}")
            resources.release_memory()

    def interrupted(self, members: list[Learner], error: Exception) -> None:
        """Notes that memory ran out in a pass. Raises UserError if the pass had a single member, and any other error as it is."""
        if not resources.out_of_memory(error):
            raise error
        if len(members) == 1:
            raise UserError(f"not even one run at a time fits into memory: {' '.join(str(error).split())[:200]}") from error
        self._interrupted = True
