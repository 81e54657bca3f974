"""Experience replay: a few stored samples beside every batch."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from baselines import STRATEGIES
from baselines.reservoir import Reservoir, joined
from learning.hooks import Strategy
from neurons.specs import Batch


@STRATEGIES.register("replay")
class Replay(Strategy):
    """Each batch of B is joined by B stored samples (fewer while there are fewer), and the loss is the mean over both.

    The buffer is a reservoir of ``size`` samples, uniform over all samples met so far; a sample is offered the first
    time a task shows it, so a buffer larger than the data holds each once. Chaudhry et al. 2019; Vitter 1985.
    """

    stores_samples: ClassVar[bool] = True

    def __init__(self, *, size: int = 100) -> None:
        self.size = size
        self.buffer = Reservoir(size)
        self.unmet = 0

    def before_task(self, model: nn.Module, task: Any) -> None:
        self.unmet = task.size("train")

    def batch(self, batch: Batch) -> Batch:
        stored = self.buffer.draw(len(batch))[0] if len(self.buffer) else None
        if self.unmet > 0:  # the first epoch visits every row once
            self.buffer.offer(batch)
            self.unmet -= len(batch)
        return batch if stored is None else joined(batch, stored)

    def state_dict(self) -> dict[str, Tensor]:
        return self.buffer.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.buffer.load_state_dict(state)
