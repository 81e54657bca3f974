"""Which outputs compete: a loss over the active ones, for every strategy and rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from learning.hooks import Strategy
from learning.rule import LossFunction
from neurons.errors import UsageError
from neurons.specs import Batch, Context, Loss


def masked(logits: Tensor, labels: Tensor, active: Tensor) -> Tensor:
    """logits (B, C), -inf where ``active`` (C, C) says that an output does not compete for the sample's label."""
    return logits.masked_fill(~active.to(logits.device)[labels], -torch.inf)


class ActiveLoss:
    """Cross-entropy among the outputs that compete for each label, summed over the batch: ``loss(x, batch)``.

    ``active`` (C, C) bool, row y for label y: a replayed sample competes in the head of its own task. A strategy that
    needs logits too takes both steps apart, so that the readout is called once: rules that listen to it hear each row
    once, in order.
    """

    def __init__(self, readout: Callable[[Tensor, Context], Tensor], active: Tensor) -> None:
        self.readout, self.active = readout, active

    def __call__(self, x: Tensor, batch: Batch) -> Loss:
        return self.of(self.logits(x, batch), batch)

    def logits(self, x: Tensor, batch: Batch) -> Tensor:
        """All logits (B, C) of the readout's input x, at least float32."""
        logits = self.readout(x, Context(mask=batch.mask))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def of(self, logits: Tensor, batch: Batch) -> Loss:
        """The loss of ``logits``, rows of a batch."""
        total = F.cross_entropy(masked(logits, batch.y, self.active), batch.y, reduction="sum")
        return Loss(total, total.detach(), len(batch))


def taken_apart(base: LossFunction, *, strategy: str) -> ActiveLoss:
    """``base`` as the loss of a stream; UsageError where the strategy is used for something else."""
    if not isinstance(base, ActiveLoss):
        raise UsageError(f"strategy '{strategy}' is for a stream of tasks. Try: neurons list streams")
    return base


class Active(Strategy):
    """``strategy`` as it is, over the loss of the outputs that are active on ``task``."""

    def __init__(self, strategy: Strategy, model: Any, task: Any) -> None:
        self.strategy, self.readout, self.active = strategy, model.readout, torch.from_numpy(task.active)

    def batch(self, batch: Batch) -> Batch:
        return self.strategy.batch(batch)

    def loss(self, base: LossFunction) -> LossFunction:
        return self.strategy.loss(ActiveLoss(self.readout, self.active))

    def gradient(self, model: nn.Module, batch: Batch) -> None:
        self.strategy.gradient(model, batch)
