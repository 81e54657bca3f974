"""Consolidation by a chain of timescales: every weight leaks into slower copies of itself, and they into it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from baselines import STRATEGIES, flat
from learning.hooks import Strategy
from neurons.errors import UsageError
from neurons.plasticity import benna_fusi
from neurons.specs import Batch


@STRATEGIES.register("benna-fusi")
class BennaFusi(Strategy):
    """What the optimiser wrote in the last ``every`` steps enters the first of ``beakers`` of each weight, then the
    chain flows once (``neurons.plasticity.benna_fusi``):

        u_0 += update,    C_k u_k += f_(k-1) - f_k,    f_k = alpha 2^-k (u_k - u_(k+1)),    weight = start + u_0

    ``beakers`` 3 is a fast, a medium and a slow weight, 1 a weight that decays to its start. No signal says when a task
    ends: the same flow that carries new weights down brings old ones back. Benna & Fusi 2016.

    State: ``chain`` (beakers, P) and ``start`` (P,).
    """

    def __init__(self, *, beakers: int = 8, alpha: float = 0.25, every: int = 10) -> None:
        self.beakers, self.alpha, self.every = beakers, alpha, every
        if beakers < 1 or not 0 < alpha < 1 or every < 1:
            raise UsageError("benna-fusi: beakers and every are at least 1, alpha lies between 0 and 1")
        self.chain: Tensor | None = None
        self.start: Tensor | None = None
        self.model: nn.Module | None = None
        self.steps = 0

    def before_task(self, model: nn.Module, task: Any) -> None:
        if self.chain is None or self.start is None:
            self.start = flat.values(model)
            self.chain = benna_fusi.start(self.start, beakers=self.beakers)
        self.model, self.steps = model, 0

    def batch(self, batch: Batch) -> Batch:
        if self.steps and self.steps % self.every == 0:
            self._flow()
        self.steps += 1
        return batch

    def after_task(self, model: nn.Module, task: Any) -> None:
        if self.steps:
            self._flow()

    def _flow(self) -> None:
        assert self.model is not None
        assert self.chain is not None
        assert self.start is not None
        written = flat.values(self.model) - self.start - self.chain[0]
        self.chain = benna_fusi.advance(self.chain, written, alpha=self.alpha)
        place, weights = 0, self.start + self.chain[0]
        with torch.no_grad():
            for parameter in flat.parameters(self.model):
                parameter.copy_(weights[place : place + parameter.numel()].view_as(parameter))
                place += parameter.numel()

    def state_dict(self) -> dict[str, Tensor]:
        if self.chain is None or self.start is None:
            return {}
        return {"chain": self.chain, "start": self.start}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.chain, self.start = state.get("chain"), state.get("start")
