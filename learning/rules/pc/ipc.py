"""Incremental predictive coding: a weight step after every state step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from learning.chain import Chain
from learning.rule import StepReport, Update
from learning.rules.pc.descend import check_start, shared
from learning.rules.pc.settling import Settling
from learning.rules.pc.variant import Outcome, Variant, detached
from learning.rules.settle import frozen, generators, set_generators, still_statistics
from neurons.errors import DivergedError, UsageError

if TYPE_CHECKING:
    from learning.rules.predictive_coding import PredictiveCoding


class Interleaved(Settling):
    """States and weights descend together: after the first state step, every evaluation serves both.

        s_l <- s_l - rate (eps_l - J_{l+1}^T eps_{l+1} pi_{l+1} / pi_l),     theta_l <- update(dE/d theta_l / count)

    ``run_with(steps, update)`` makes ``steps`` state steps and ``steps - 1`` weight steps; the gradient it returns is
    for the last one. Weights move, so every prediction is made anew: no stage is skipped, and mu_1 isn't kept.
    """

    def run_with(self, steps: int, update: Update | None) -> list[Tensor | None]:
        with torch.enable_grad():
            self._forward()
            with still_statistics(self.chain.stages):
                if not self.free:
                    return self._weight_gradients()
                with frozen(self.chain.parameters):
                    self._move()
                self._moved = 0
                while self.steps < steps and not self._settled():
                    assert update is not None
                    self._move_both(update)
                return self._weight_gradients()

    def _move_both(self, update: Update) -> None:
        chain = self.chain
        self._predict(1 if self.steps == 1 else 0)
        self._note_energies()
        with torch.no_grad():
            self.errors = self._prediction_errors()
        scale = 1.0 / max(self.loss.count, 1)
        outputs: list[Tensor] = []
        pulls: list[Tensor] = []
        weights = [torch.full_like(self.loss.objective, self.nudge)]
        weights = [*(e * pi for e, pi in zip(self.errors, self.precisions, strict=True)), *weights]
        for output, pull in zip([*self.predictions, self.loss.objective], weights, strict=True):
            if output.requires_grad:
                outputs.append(output)
                pulls.append(pull)
        wanted = [*self.free, *chain.parameters]
        found = torch.autograd.grad(outputs, wanted, pulls, allow_unused=True)
        self.passes += 2 * len(chain) - 1
        states = len(self.free)
        chain.fill([None if g is None else g * scale for g in found[states:]])
        self._step(
            [
                error if g is None else error - g / pi
                for error, g, pi in zip(self.errors, found[:states], self.precisions, strict=True)
            ]
        )
        update(StepReport(detached(self.loss), self.passes))

    def _predict(self, first: int) -> None:
        if first == 0 and self.free:
            self.predictions[0] = self._replay(0, self.chain.stage, 0, self.chain.input)
            self.passes += 1
            first = 1
        super()._predict(first)

    def _weight_gradients(self) -> list[Tensor | None]:
        self.free = [state.detach() for state in self.free]
        self._predict(0 if self.steps > 1 else min(1, self._last))
        self._note_energies()
        with torch.no_grad():
            self.errors = self._prediction_errors()
        return self._pull_weights()


def run(rule: PredictiveCoding, chain: Chain, update: Update | None) -> Outcome:
    if update is None and rule.steps > 1:
        raise UsageError(
            "variant 'ipc' makes a weight step after every state step: give step(..., update=), for example "
            "update=lambda report: optimizer.step()"
        )
    before = generators(chain.input.device)
    rate, told = rule.limited_rate(
        lambda: Interleaved(chain, wavefront=False, **shared(rule, rule.inference_rate)).curvature()
    )
    set_generators(chain.input.device, before)
    if rule.trace is not None:
        rule.trace.restart(rate)
    settling = Interleaved(chain, wavefront=False, **shared(rule, rate))
    gradients = settling.run_with(rule.steps, update)
    scalars = settling.scalars()
    check_start(scalars["energy_start"])
    if settling.rose(max(abs(scalars["energy_start"]) * 10, 1.0), scalars["energy"]):  # weights have moved: no retry
        raise DivergedError(
            f"predictive coding diverges: the energy went from {scalars['energy_start']:.4g} to "
            f"{scalars['energy']:.4g} at inference rate {rate:.2g}. Lower it, or the learning rate. "
            f"Try: rule.inference_rate={rate / 4:.2g}"
        )
    if rule.tolerance:
        scalars["steps"] = settling.steps
    return Outcome(gradients, detached(settling.forward_loss), settling.passes, scalars | told)


# Salvatori et al. 2024 (iPC): states and weights in parallel, at every step.
IPC = Variant(run, in_space=True, in_time=True)
