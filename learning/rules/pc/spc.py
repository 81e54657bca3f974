"""Standard predictive coding: settle the states, then learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from learning.chain import Chain
from learning.rule import Update
from learning.rules.pc.descend import descend, shared
from learning.rules.pc.layers import layers_of
from learning.rules.pc.linear_settling import LinearSettling
from learning.rules.pc.settling import Settling
from learning.rules.pc.variant import Outcome, Variant

if TYPE_CHECKING:
    from learning.rules.predictive_coding import PredictiveCoding


def settling(rule: PredictiveCoding, chain: Chain, rate: float, nudge: float = 1.0) -> Settling:
    """The states of ``chain`` under the options of ``rule``; by hand-written products where all stages allow it."""
    options: dict[str, Any] = {
        "wavefront": rule.wavefront,
        "spiking": rule.precision_schedule == "spiking",
        "nudge": nudge,
    }
    layers = layers_of(chain) if rule.specialised else None
    if layers is None:
        return Settling(chain, **options, **shared(rule, rate))
    return LinearSettling(chain, layers=layers, **options, **shared(rule, rate))


def run(rule: PredictiveCoding, chain: Chain, update: Update | None) -> Outcome:
    """From the forward pass, ``steps`` times ``s_l <- s_l - rate (eps_l - J_{l+1}^T eps_{l+1})``, all states at once;
    then ``dE/d theta_l = -(d f_l / d theta_l)^T eps_l``."""
    return descend(rule, chain, lambda rate: settling(rule, chain, rate))


# Rao & Ballard 1999; Whittington & Bogacz 2017.
SPC = Variant(run, in_space=True, in_time=True)
