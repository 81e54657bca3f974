"""Standard predictive coding: settle the states, then learn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from learning.chain import Chain
from learning.rule import Update
from learning.rules.pc.descend import descend, shared
from learning.rules.pc.deviations import Deviations, rounding
from learning.rules.pc.layers import layers_of
from learning.rules.pc.linear_settling import LinearSettling
from learning.rules.pc.settling import Settling
from learning.rules.pc.variant import Outcome, Variant

if TYPE_CHECKING:
    from learning.rules.predictive_coding import PredictiveCoding


def settling(rule: PredictiveCoding, chain: Chain, rate: float, nudge: float = 1.0) -> Settling:
    """The states of ``chain`` under the options of ``rule``: as deviations where the precisions would cost the lowest
    error half of its digits, by hand-written products where all stages allow it, and else as they are."""
    options: dict[str, Any] = {
        "wavefront": rule.wavefront,
        "spiking": rule.precision_schedule == "spiking",
        "nudge": nudge,
    }
    options |= shared(rule, rate)
    if _drowns(chain, rule.precision):
        return Deviations(chain, **options)
    layers = layers_of(chain) if rule.specialised else None
    return Settling(chain, **options) if layers is None else LinearSettling(chain, layers=layers, **options)


def _drowns(chain: Chain, precision: float) -> bool:
    """Whether the lowest error is so small beside its state that the difference of two states would lose it:
    ``precision^(hidden stages - 1) > 1 / sqrt(u)``."""
    dtype = next((p.dtype for p in chain.parameters), torch.float32)
    return (len(chain) - 2) * math.log(precision) > -0.5 * math.log(rounding(dtype, chain.input.device.type))


def run(rule: PredictiveCoding, chain: Chain, update: Update | None) -> Outcome:
    """From the forward pass, ``steps`` times ``s_l <- s_l - rate (eps_l - J_{l+1}^T eps_{l+1})``, all states at once;
    then ``dE/d theta_l = -(d f_l / d theta_l)^T eps_l``."""
    return descend(rule, chain, lambda rate: settling(rule, chain, rate))


# Rao & Ballard 1999; Whittington & Bogacz 2017.
SPC = Variant(run, in_space=True, in_time=True)
