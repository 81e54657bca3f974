"""Dark experience replay: stored samples keep the logits they once had."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from baselines import STRATEGIES
from baselines.active import taken_apart
from baselines.reservoir import Reservoir, joined, rows
from learning.hooks import Strategy
from learning.rule import LossFunction
from neurons.errors import UsageError
from neurons.specs import Batch, Loss


@STRATEGIES.register("der++")
class DERPP(Strategy):
    """``mean CE(current) + alpha mean (z - z')^2 + beta mean CE(stored)``, two draws of B samples from the buffer.

    z' are all C logits that the model gave when the sample was written (dropout off, before that step's update); a
    reservoir of ``size`` takes every sample that is shown, so samples of later epochs, with better logits, replace
    earlier ones. Buzzega et al. 2020.
    """

    stores_samples: ClassVar[bool] = True

    def __init__(self, *, size: int = 100, alpha: float = 0.5, beta: float = 0.5) -> None:
        self.size, self.alpha, self.beta = size, alpha, beta
        if alpha < 0 or beta < 0:
            raise UsageError("der++: alpha and beta are at least 0")
        self.buffer = Reservoir(size)
        self.model: Any = None
        self.parts: tuple[int, int] = (0, 0)  # rows of the current batch, of each draw
        self.wanted: Tensor | None = None

    def before_task(self, model: nn.Module, task: Any) -> None:
        self.model = model

    def batch(self, batch: Batch) -> Batch:
        drawn = []
        if len(self.buffer):
            stored, places = self.buffer.draw(len(batch))
            self.wanted = self.buffer.columns["logits"][places]
            drawn = [stored, self.buffer.draw(len(batch))[0]]
        self.parts = (len(batch), len(drawn[0]) if drawn else 0)
        self._write(batch)
        return joined(batch, *drawn)

    def loss(self, base: LossFunction) -> LossFunction:
        ce = taken_apart(base, strategy="der++")

        def with_replay(x: Tensor, batch: Batch) -> Loss:
            count, stored = self.parts
            logits = ce.logits(x, batch)
            now = ce.of(logits[:count], rows(batch, slice(0, count)))
            if not stored or self.wanted is None:
                return now
            dark, lit = slice(count, count + stored), slice(count + stored, None)
            squares = (logits[dark] - self.wanted.to(logits.device)).square().mean()
            labelled = ce.of(logits[lit], rows(batch, lit)).objective / stored
            return Loss(now.objective + count * (self.alpha * squares + self.beta * labelled), now.reported, now.count)

        return with_replay

    def _write(self, batch: Batch) -> None:
        places = self.buffer.draw_places(len(batch))
        if not len(places[0]):
            return self.buffer.offer(batch, places)
        chosen = places[0]
        entering = Batch(batch.x[chosen], batch.y[chosen], None if batch.mask is None else batch.mask[chosen])
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad():
            logits = self.model(entering.to(next(self.model.parameters()).device))
        self.model.train(was_training)
        return self.buffer.offer(batch, places, logits=logits.float())

    def state_dict(self) -> dict[str, Tensor]:
        return self.buffer.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.buffer.load_state_dict(state)
