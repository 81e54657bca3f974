"""Backpropagation, the reference that every other rule is held against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from learning import RULES
from learning.chain import Chain, unsupported
from learning.rule import Rule, StepReport, Update
from neurons.specs import Loss


@RULES.register("backprop")
class Backprop(Rule):
    """Exact gradient of the objective by one reverse pass through the whole chain; not local.

    ``.grad = d(objective / count) / d theta``. ``passes`` counts stage passes: on L stages L forward, L weight
    gradients and L - 1 input gradients. Rumelhart, Hinton & Williams 1986.
    """

    local = False

    def supports(self, model: nn.Module) -> str | None:
        return unsupported(model)

    def step(
        self, model: Any, batch: Any, *, loss: Callable[..., Any] | None = None, update: Update | None = None
    ) -> StepReport:
        with torch.enable_grad():
            chain = Chain(model, batch, loss)
            x = chain.input
            for index in range(len(chain) - 1):
                x = chain.stage(index, x)
            seen = chain.loss(x)
            objective = seen.objective / max(seen.count, 1)
        if objective.requires_grad:
            chain.fill(torch.autograd.grad(objective, chain.parameters, allow_unused=True))
        return StepReport(Loss(seen.objective.detach(), seen.reported, seen.count), passes=3 * len(chain) - 1)
