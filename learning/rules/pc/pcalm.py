"""Augmented Lagrangian predictive coding: multipliers take over what the prediction errors pull."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from learning.chain import Chain
from learning.distributed import reduce_max
from learning.rule import Update
from learning.rules.pc.descend import descend, shared
from learning.rules.pc.settling import Settling
from learning.rules.pc.variant import Outcome, Variant

if TYPE_CHECKING:
    from learning.rules.predictive_coding import PredictiveCoding

PENALTY = 1.0


class Augmented(Settling):
    """States descend and multipliers ascend, by turns, on the augmented Lagrangian of ``minimise the loss subject to
    r_l = s_l - f_l(s_{l-1}) = 0``, with one multiplier m_l for each state:

        L = loss + sum_l (m_l . r_l + rho pi_l/2 |r_l|^2) = loss + sum_l rho pi_l/2 (|r_l + u_l|^2 - |u_l|^2)
        u_l = m_l / (rho pi_l),     s_l <- s_l - rate dL/ds_l / (rho pi_l),     m_l <- m_l + multiplier_rate pi_l r_l

    Weights learn from ``dL/d theta_l = -(d f_l / d theta_l)^T (m_l + rho pi_l r_l)``. Once settled r_l = 0: the states
    are those of the forward pass, ``m_l = -d loss / d s_l``, and the gradient is backprop's, on nonlinear stages too.

    It is kept in units of rho: ``nudge = 1 / rho``, and ``offsets`` are the u_l.
    """

    def __init__(self, chain: Chain, *, penalty: float, multiplier_rate: float, **options: Any) -> None:
        super().__init__(chain, nudge=1.0 / penalty, **options)
        self._ascent = multiplier_rate / penalty

    def rose(self, start: float, end: float) -> bool:
        """Ascent lifts L a little above the loss of the forward pass, its value in the end; divergence, far above."""
        return reduce_max(end - start - abs(start) - 1e-6) > 0

    def _pulling_errors(self, first: int) -> list[Tensor]:
        """``-(r_l + u_l)``."""
        errors = super()._pulling_errors(first)
        return list(torch._foreach_sub(errors, self.offsets[first:])) if self.offsets else errors

    def _predict_moved(self) -> None:
        super()._predict_moved()
        self._ascend()

    def _ascend(self) -> None:
        with torch.no_grad():
            if not self.offsets:
                self.offsets = [torch.zeros_like(state) for state in self.free]
            torch._foreach_sub_(self.offsets, self._prediction_errors(), alpha=self._ascent)

    def _learning_errors(self) -> list[Tensor]:
        if not self.free:
            return []
        self._ascend()
        return list(torch._foreach_sub(self._prediction_errors(), self.offsets))


def run(rule: PredictiveCoding, chain: Chain, update: Update | None) -> Outcome:
    penalty = PENALTY if rule.penalty is None else rule.penalty

    def settling(rate: float) -> Augmented:
        ascent = penalty if rule.multiplier_rate is None else rule.multiplier_rate
        return Augmented(chain, penalty=penalty, multiplier_rate=ascent, wavefront=rule.wavefront, **shared(rule, rate))

    return descend(rule, chain, settling)


# Seely & Gould 2026, arXiv:2605.31022. The multipliers are variables of their stage, like the states.
PCALM = Variant(run, in_space=True, in_time=True)
