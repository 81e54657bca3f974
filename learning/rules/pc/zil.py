"""Z-IL: predictive coding on a schedule that makes it backprop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from learning.chain import Chain
from learning.rule import Update
from learning.rules.pc.descend import check_start
from learning.rules.pc.variant import Outcome, Variant, detached

if TYPE_CHECKING:
    from learning.rules.predictive_coding import PredictiveCoding


def sweep(chain: Chain, reach: int | None = None) -> Outcome:
    """Z-IL as one reverse sweep: each stage, on its own graph, turns the error above it into the one below.

    ``reach``: how many hidden stages, from the top, the error arrives at; None is all of them.
    """
    predictions: list[Tensor] = []
    states: list[Tensor] = []
    totals: dict[int, Tensor] = {}
    last = len(chain) - 1
    first = 0 if reach is None else max(last - reach, 0)  # stages before it have no error

    with torch.enable_grad():
        x = chain.input
        for index in range(last):
            predictions.append(chain.stage(index, x))
            x = predictions[-1].detach().requires_grad_()
            states.append(x)
        seen = chain.loss(x)
    pull: Tensor = torch.full_like(seen.objective, 1.0 / max(seen.count, 1))
    for index in range(last, first - 1, -1):
        output = predictions.pop() if index < last else seen.objective
        parameters = [p for p in chain.stages[index].parameters() if p.requires_grad]
        inputs: list[Tensor] = [*states[index - 1 : index], *parameters]
        gradients: list[Tensor | None] = [None] * len(inputs)
        if output.requires_grad and inputs:
            gradients = list(torch.autograd.grad(output, inputs, pull, allow_unused=True))
        for parameter, gradient in zip(parameters, gradients[len(inputs) - len(parameters) :], strict=True):
            if gradient is not None:
                known = totals.get(id(parameter))
                totals[id(parameter)] = gradient if known is None else known + gradient
        if index:
            below = gradients[0]
            pull = torch.zeros_like(states[index - 1]) if below is None else below
    passes = len(chain) + 2 * (len(chain) - first) - (first == 0)
    return Outcome([totals.get(id(parameter)) for parameter in chain.parameters], detached(seen), passes, {})


def run(rule: PredictiveCoding, chain: Chain, update: Update | None) -> Outcome:
    """Forward pass, inference rate 1, and stage l takes its weight gradient at the one moment t = L - l, when its error
    is backprop's delta."""
    found = sweep(chain)
    check_start(float(found.loss.objective) / max(found.loss.count, 1))
    return found


# Song et al. 2020. Each update uses local quantities, but on a schedule that all stages must share.
ZIL = Variant(run, in_space=True, in_time=False)
