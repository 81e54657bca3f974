"""Nudged predictive coding: the loss enters the energy with a small weight, and the gradient is divided by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from learning.chain import Chain
from learning.distributed import reduce_max
from learning.rule import Update
from learning.rules.pc.descend import descend
from learning.rules.pc.spc import settling
from learning.rules.pc.variant import Outcome, Variant
from learning.rules.settle import generators, set_generators
from neurons.errors import DivergedError

if TYPE_CHECKING:
    from learning.rules.predictive_coding import PredictiveCoding

NUDGE = 0.1
RUNAWAY = 10.0  # a stationarity that no settling has


def _strength(rule: PredictiveCoding) -> float:
    return NUDGE if rule.nudge is None else rule.nudge


def _one_sided(sign: float) -> Callable[[PredictiveCoding, Chain, Update | None], Outcome]:
    def run(rule: PredictiveCoding, chain: Chain, update: Update | None) -> Outcome:
        """``g(beta) / beta``, where g(beta) is the gradient of ``E = sum 1/2 |eps_l|^2 + beta loss`` at its settled
        states; off from backprop's by O(beta)."""
        return _bounded(rule, descend(rule, chain, lambda rate: settling(rule, chain, rate, sign * _strength(rule))))

    return run


def _centred(rule: PredictiveCoding, chain: Chain, update: Update | None) -> Outcome:
    """``(g(beta) - g(-beta)) / 2 beta``; off from backprop's by O(beta^2). Scalars of the positive phase, the larger
    stationarity of the two."""
    before, beta = generators(chain.input.device), _strength(rule)
    down = _bounded(rule, descend(rule, chain, lambda rate: settling(rule, chain, rate, -beta)))
    set_generators(chain.input.device, before)  # the same dropout masks in both phases
    up = descend(rule, chain, lambda rate: settling(rule, chain, rate, beta), seen=True)
    worse = {key: max(up.scalars[key], down.scalars[key]) for key in ("stationarity", "retries")}
    with torch.no_grad():
        gradients = [_mean(a, b) for a, b in zip(up.gradients, down.gradients, strict=True)]
    return Outcome(gradients, up.loss, up.passes + down.passes, up.scalars | worse)


def _bounded(rule: PredictiveCoding, found: Outcome) -> Outcome:
    """A negative nudge raises the loss, and where that outweighs the errors the energy falls without end."""
    if reduce_max(found.scalars["stationarity"]) > RUNAWAY:
        raise DivergedError(
            f"predictive coding runs away: at nudge {_strength(rule):.2g} the states move ever faster. "
            f"Lower it. Try: rule.nudge={_strength(rule) / 4:.2g}"
        )
    return found


def _mean(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Of two gradients, each of which has been divided by its own nudge."""
    if a is None or b is None:
        known = b if a is None else a
        return None if known is None else known / 2
    return (a + b) / 2


# Pinchetti et al. 2024. PN pulls towards the target, NN pushes away from it; CN must keep the first phase's gradient
# while it settles the second.
PN = Variant(_one_sided(1.0), in_space=True, in_time=True)
NN = Variant(_one_sided(-1.0), in_space=True, in_time=True)
CN = Variant(_centred, in_space=True, in_time=False)
