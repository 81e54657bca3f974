"""Error-based predictive coding: the errors are the free variables, the states follow from them."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from learning.chain import Chain
from learning.rule import Update
from learning.rules.pc.descend import descend, shared
from learning.rules.pc.descent import Descent
from learning.rules.pc.variant import Outcome, Variant
from learning.rules.settle import frozen

if TYPE_CHECKING:
    from learning.rules.predictive_coding import PredictiveCoding


class ErrorSettling(Descent):
    """The energy E of :class:`Descent` as a function of the errors, ``s_l = f_l(s_{l-1}) + eps_l``:

        eps_l <- eps_l - rate (eps_l + (d objective / d s_l) / pi_l)

    where d / d s_l runs through all stages above: one reverse pass of the whole chain a step. Its stationary points are
    those of E in the states, but an error reaches every stage at the first step, in full.

    The weight gradient is the local one, ``-pi_l (d f_l / d theta_l)^T eps_l``.
    """

    def _forward(self) -> None:
        chain, x = self.chain, self.chain.input
        with ExitStack() as settling:
            for index in range(self._last):
                prediction = self._replay.record(index, chain.stage, index, x)
                self.predictions.append(prediction)
                self.free.append(torch.zeros_like(prediction, requires_grad=True))
                x = prediction.detach() + self.free[0] if index == 0 else prediction + self.free[index]
                if index == 0:  # clamped input: this evaluation, with its parameters, serves the weight step too
                    settling.enter_context(frozen(chain.parameters))
            self.loss = self.forward_loss = self._replay.record(self._last, chain.loss, x)
        self.passes += len(chain)

    def _predict_moved(self) -> None:
        x = self.predictions[0].detach() + self.free[0]
        for index in range(1, self._last):
            self.predictions[index] = self._replay(index, self.chain.stage, index, x)
            x = self.predictions[index] + self.free[index]
        self.loss = self._replay(self._last, self.chain.loss, x)
        self.passes += self._last

    def _move(self) -> None:
        self._note_energies()
        self._step(self._directions())

    def _direction_anew(self) -> list[Tensor]:
        self._predict_moved()
        return self._directions()

    def _directions(self) -> list[Tensor]:
        objective = self.loss.objective
        gradients: list[Tensor] = [torch.zeros_like(error) for error in self.free]
        if objective.requires_grad:
            pull = torch.full_like(objective, self.nudge)
            found = torch.autograd.grad(objective, self.free, pull, allow_unused=True, materialize_grads=True)
            gradients = list(found)
        self.passes += self._last
        with torch.no_grad():
            if self.precision != 1:
                gradients = list(torch._foreach_div(gradients, self.precisions))
            return list(torch._foreach_neg(torch._foreach_add(gradients, self.free)))

    def _prediction_errors(self) -> list[Tensor]:
        return list(torch._foreach_neg(self.free)) if self.free else []

    def _weight_gradients(self) -> list[Tensor | None]:
        self.free = [error.detach() for error in self.free]
        self.errors = self._prediction_errors()
        if self.free:
            x = self.predictions[0].detach() + self.free[0]
            for index in range(1, self._last):
                self.predictions[index] = self._replay(index, self.chain.stage, index, x)
                x = self.predictions[index].detach() + self.free[index]
            self.loss = self._replay(self._last, self.chain.loss, x)
            self.passes += self._last
        else:
            self.loss = self._replay(self._last, self.chain.loss, self.chain.input)
            self.passes += 1
        self._note_energies()
        return self._pull_weights()


def settling(rule: PredictiveCoding, chain: Chain, rate: float) -> ErrorSettling:
    return ErrorSettling(chain, nudge=1.0 if rule.nudge is None else rule.nudge, **shared(rule, rate))


def run(rule: PredictiveCoding, chain: Chain, update: Update | None) -> Outcome:
    return descend(rule, chain, lambda rate: settling(rule, chain, rate))


# A step sweeps the chain twice and hands the loss to every stage at once. Goemaere et al. 2025.
EPC = Variant(run, in_space=False, in_time=False)
