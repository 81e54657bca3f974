"""One batch settled: at a rate that the curvature allows, and again at a lower one if the energy rises."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from learning.chain import Chain
from learning.rules.pc.descent import Descent
from learning.rules.pc.state_optimizers import make_state_optimizer
from learning.rules.pc.variant import Outcome, detached
from learning.rules.settle import generators, set_generators, still_statistics
from neurons.errors import DivergedError

if TYPE_CHECKING:
    from learning.rules.predictive_coding import PredictiveCoding

RETRIES = 3


def shared(rule: PredictiveCoding, rate: float) -> dict[str, Any]:
    """The options that every descent takes from its rule."""
    return {
        "rate": rate,
        "precision": rule.precision,
        "optimizer": make_state_optimizer(rule.state_optimizer, rate, rule.momentum),
        "tolerance": rule.tolerance,
        "trace": rule.trace,
    }


def descend(rule: PredictiveCoding, chain: Chain, build: Callable[[float], Descent], *, seen: bool = False) -> Outcome:
    """Settle ``build(rate)`` for ``rule.steps``; if its energy rises, again at a quarter of the rate, up to RETRIES
    times. ``seen``: running statistics have had this batch already."""
    device = chain.input.device
    before = generators(device)
    base, told = rule.limited_rate(lambda: build(rule.inference_rate).curvature())
    passes = 0
    for retries in range(RETRIES + 1):
        set_generators(device, before)
        rate = base / 4**retries
        if rule.trace is not None:
            rule.trace.restart(rate)
        settling = build(rate)
        with still_statistics(chain.stages) if retries or seen else nullcontext():  # one batch counts once
            gradients = settling.run(rule.steps)
        passes += settling.passes
        scalars = settling.scalars()
        start, end = scalars["energy_start"], scalars["energy"]
        check_start(start)
        if not settling.rose(start, end):
            if rule.tolerance:
                scalars["steps"] = settling.steps
            return Outcome(gradients, detached(settling.forward_loss), passes, scalars | told | {"retries": retries})
    raise DivergedError(
        f"predictive coding diverges: in {rule.steps} steps the energy rose from {start:.4g} to {end:.4g}, even at "
        f"inference rate {rate:.2g}. Lower it. Try: rule.inference_rate={rate / 4:.2g}, or a larger rule.precision"
    )


def check_start(loss: float) -> None:
    if not math.isfinite(loss):
        raise DivergedError(
            f"the loss is {loss} before settling: look for NaN in the input, or lower the learning rate"
        )
