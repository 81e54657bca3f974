"""Averaged gradient episodic memory: no step may raise the loss on what is stored."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from baselines import STRATEGIES, flat
from baselines.reservoir import Reservoir
from learning.hooks import Strategy
from learning.rule import LossFunction
from learning.rules.backprop import Backprop
from neurons.specs import Batch
from tasks.batches import collate

ROWS = 1024  # offered to the buffer at a time


@STRATEGIES.register("a-gem")
class AGEM(Strategy):
    """``g <- g - (g . r / r . r) r`` where g . r < 0; r is the gradient on as many stored samples as the batch holds.

    The buffer, a reservoir of ``size`` samples uniform over the past tasks, takes in a task's train rows when it ends.
    r comes from backpropagation, whatever the rule. Chaudhry et al. 2019.
    """

    stores_samples: ClassVar[bool] = True

    def __init__(self, *, size: int = 100) -> None:
        self.size = size
        self.buffer = Reservoir(size)
        self.base: LossFunction | None = None

    def loss(self, base: LossFunction) -> LossFunction:
        self.base = base
        return base

    def gradient(self, model: nn.Module, batch: Batch) -> None:
        if not len(self.buffer):
            return
        own = flat.gradient(model)
        stored, _ = self.buffer.draw(len(batch))
        Backprop().step(model, stored.to(own.device), loss=self.base)
        flat.set_gradient(model, projected(own, flat.gradient(model)))

    def after_task(self, model: nn.Module, task: Any) -> None:
        split = task.split("train")
        order = torch.randperm(len(split)).numpy()
        for start in range(0, len(order), ROWS):
            self.buffer.offer(collate(split, order[start : start + ROWS], task.input))

    def state_dict(self) -> dict[str, Tensor]:
        return self.buffer.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.buffer.load_state_dict(state)


def projected(gradient: Tensor, reference: Tensor) -> Tensor:
    """``gradient`` (..., P) without its part against ``reference`` (..., P), row by row."""
    along = (gradient * reference).sum(-1, keepdim=True)
    size = reference.square().sum(-1, keepdim=True)
    against = along.clamp(max=0) / size.clamp_min(torch.finfo(size.dtype).tiny)
    return gradient - against * reference
