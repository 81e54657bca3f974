"""Standard predictive coding: settle the states, then learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from learning.chain import Chain
from learning.rule import Update
from learning.rules.pc.descend import descend, shared
from learning.rules.pc.deviations import Deviations
from learning.rules.pc.layers import Layer, layers_of
from learning.rules.pc.linear_settling import LinearSettling
from learning.rules.pc.settling import Settling
from learning.rules.pc.variant import Outcome, Variant

if TYPE_CHECKING:
    from learning.rules.predictive_coding import PredictiveCoding


def settling(rule: PredictiveCoding, chain: Chain, rate: float, nudge: float = 1.0) -> Settling:
    """The states of ``chain`` under the options of ``rule``; by hand-written products where all stages allow it and
    the precisions leave the lowest error half of its digits."""
    options: dict[str, Any] = {
        "wavefront": rule.wavefront,
        "spiking": rule.precision_schedule == "spiking",
        "nudge": nudge,
    }
    layers = layers_of(chain) if rule.specialised else None
    if layers is None or _drowned(layers, rule.precision):
        return Deviations(chain, **options, **shared(rule, rate))
    return LinearSettling(chain, layers=layers, **options, **shared(rule, rate))


def _drowned(layers: list[Layer], precision: float) -> bool:
    """Whether the lowest error is so small beside its state that the difference of two states would lose it."""
    return bool(layers) and precision ** len(layers) > torch.finfo(layers[0].weight.dtype).eps ** -0.5


def run(rule: PredictiveCoding, chain: Chain, update: Update | None) -> Outcome:
    """From the forward pass, ``steps`` times ``s_l <- s_l - rate (eps_l - J_{l+1}^T eps_{l+1})``, all states at once;
    then ``dE/d theta_l = -(d f_l / d theta_l)^T eps_l``."""
    return descend(rule, chain, lambda rate: settling(rule, chain, rate))


# Rao & Ballard 1999; Whittington & Bogacz 2017.
SPC = Variant(run, in_space=True, in_time=True)
