"""Which outputs compete: a loss over the active ones, for every strategy and rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from learning.hooks import Strategy
from learning.rule import LossFunction
from neurons.specs import Batch, Context, Loss


def masked(logits: Tensor, labels: Tensor, active: Tensor) -> Tensor:
    """logits (B, C), -inf where ``active`` (C, C) says that an output does not compete for the sample's label."""
    return logits.masked_fill(~active.to(logits.device)[labels], -torch.inf)


def active_loss(readout: Callable[[Tensor, Context], Tensor], active: Tensor) -> LossFunction:
    """Cross-entropy among the outputs that compete for each label, summed over the batch.

    ``active`` (C, C) bool, row y for label y: a replayed sample competes in the head of its own task.
    """

    def loss(x: Tensor, batch: Batch) -> Loss:
        logits = readout(x, Context(mask=batch.mask))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        total = F.cross_entropy(masked(logits, batch.y, active), batch.y, reduction="sum")
        return Loss(total, total.detach(), len(batch))

    return loss


class Active(Strategy):
    """``strategy`` as it is, over the loss of the outputs that are active on ``task``."""

    def __init__(self, strategy: Strategy, model: Any, task: Any) -> None:
        self.strategy, self.readout, self.active = strategy, model.readout, torch.from_numpy(task.active)

    def batch(self, batch: Batch) -> Batch:
        return self.strategy.batch(batch)

    def loss(self, base: LossFunction) -> LossFunction:
        return self.strategy.loss(base if bool(self.active.all()) else active_loss(self.readout, self.active))

    def gradient(self, model: nn.Module, batch: Batch) -> None:
        self.strategy.gradient(model, batch)
