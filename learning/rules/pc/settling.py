"""The settling engine of predictive coding: states as free variables, one local pull per stage and step."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from learning.chain import Chain
from learning.rules.pc.descent import Descent
from learning.rules.settle import frozen


class Settling(Descent):
    """States ``s_1 .. s_{L-1}`` relaxing all at once on the energy E of :class:`Descent`, with ``mu_l = f_l(s_{l-1})``
    and J_l the Jacobian of f_l:

        s_l     <- s_l     + rate (mu_l - s_l + J_{l+1}^T (s_{l+1} - mu_{l+1}) / precision)
        s_{L-1} <- s_{L-1} + rate (mu_{L-1} - s_{L-1} - nudge * d objective / d s_{L-1})

    So the curvature along a stage's input is ``1 + |J|^2 / precision``: with unit precisions a trained stage that
    amplifies sevenfold gives 50, and settling crawls; with ``precision`` near |J|^2 all states settle together.

    Every stage is evaluated on a detached leaf, so autograd runs inside stages only.

    ``wavefront``: after t steps only the last t states have left their predictions; the stages before them would give
    what they gave, and are not evaluated. That is exact. In any case the first step pulls from the loss alone, because
    after a forward pass no stage has an error.

    ``spiking``: an error counts ``1 / rate`` times at the one step after it arose, so that the first wave of errors
    goes down the chain without losing a factor ``rate`` at every stage.
    """

    def __init__(self, chain: Chain, *, wavefront: bool = True, spiking: bool = False, **options: Any) -> None:
        super().__init__(chain, **options)
        self.wavefront, self.spiking = wavefront, spiking
        self._moved = self._last  # free[_moved:] have left their predictions

    @property
    def states(self) -> list[Tensor]:
        return self.free

    @property
    def _leaves(self) -> list[Tensor]:
        """What the stages above were last evaluated on."""
        return self.free

    def _forward(self) -> None:
        chain, x = self.chain, self.chain.input
        with ExitStack() as settling:
            for index in range(self._last):
                prediction = self._replay.record(index, chain.stage, index, x)
                x = prediction.detach().clone().requires_grad_()
                self.predictions.append(prediction)
                self.free.append(x)
                if index == 0:  # clamped input: this evaluation, with its parameters, serves the weight step too
                    settling.enter_context(frozen(chain.parameters))
            self.loss = self.forward_loss = self._replay.record(self._last, chain.loss, x)
        self.passes += len(chain)

    def _predict(self, first: int) -> None:
        """Evaluate stages ``first ..`` anew, on the states as they are."""
        for index in range(first, self._last):
            self.predictions[index] = self._replay(index, self.chain.stage, index, self.free[index - 1])
        self.loss = self._replay(self._last, self.chain.loss, self.free[-1] if self.free else self.chain.input)
        self.passes += len(self.chain) - first

    def _predict_moved(self) -> None:
        self._predict(self._moved + 1)

    def _move(self) -> None:
        self._note_energies()
        first = max(self._moved, 1)  # the first stage with an error at its output and a state at its input
        self._step(self._directions(first))
        self._moved = first - 1 if self.wavefront else 0

    def _direction_anew(self) -> list[Tensor]:
        self._predict(1)
        return self._directions(1)

    def _directions(self, first: int) -> list[Tensor]:
        """-dE/ds / pi of ``free[first - 1:]``; the states before them have no error on either side."""
        states, predictions = self._leaves[first - 1 :], self.predictions[first - 1 :]
        with torch.no_grad():
            errors = self._pulling_errors(first - 1)
            above = self._pulls(errors[1:])
        objective = self.loss.objective
        top = None if self.nudge == 1 else torch.full_like(objective, self.nudge)
        outputs: list[Tensor] = []
        pulls: list[Tensor | None] = []
        for output, pull in zip([*predictions[1:], objective], [*above, top], strict=True):
            if output.requires_grad:  # not where a stage cuts the gradient
                outputs.append(output)
                pulls.append(pull)
        gradients = torch.autograd.grad(outputs, states, pulls, allow_unused=True, materialize_grads=True)
        self.passes += len(self.chain) - first
        with torch.no_grad():
            torch._foreach_sub_(errors, gradients)
        return errors

    def _pulls(self, errors: list[Tensor]) -> list[Tensor]:
        """What errors send down to the states below them, in the units of those."""
        return errors if self.precision == 1 else [error / self.precision for error in errors]

    def _pulling_errors(self, first: int) -> list[Tensor]:
        """``mu - s`` of ``free[first:]``, weighted as they pull at this step."""
        errors = self._errors_from(first)
        spike = self._last - self.steps - first  # the state that the last step was the first to move
        if self.spiking and 0 <= spike < len(errors):
            errors[spike] /= self.rate
        return errors

    def _prediction_errors(self) -> list[Tensor]:
        return self._errors_from(0) if self.free else []

    def _errors_from(self, first: int) -> list[Tensor]:
        """``mu - s`` of ``free[first:]``."""
        return list(torch._foreach_sub(self.predictions[first:], self.free[first:]))

    def _learning_errors(self) -> list[Tensor]:
        """What the weights of the hidden stages learn from."""
        return self._prediction_errors()

    def _hold(self) -> None:
        """The weight step needs no gradients of states."""
        self.free = [state.detach() for state in self.free]

    def _weight_gradients(self) -> list[Tensor | None]:
        self._hold()
        self._predict(min(max(self._moved, 1), self._last))
        self._note_energies()
        with torch.no_grad():
            self.errors = self._learning_errors()
        return self._pull_weights(self._moved)
