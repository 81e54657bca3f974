"""What every descent on an energy shares, whatever its free variables are."""

from __future__ import annotations

import math
from contextlib import ExitStack

import torch
from torch import Tensor

from learning.chain import Chain
from learning.distributed import reduce_max
from learning.rules.pc.curvature import largest_curvature
from learning.rules.pc.state_optimizers import Sgd, StateOptimizer
from learning.rules.pc.trace import Trace
from learning.rules.settle import Replay, frozen, still_statistics
from neurons.specs import Loss


class Descent:
    """Gradient descent of one batch's energy on ``free``, one tensor per hidden stage, from the forward pass:

        E = sum_{l<L} pi_l/2 |s_l - f_l(s_{l-1})|^2 + nudge * objective(s_{L-1})        (sums over the batch)

    with precisions ``pi_{L-1} = 1``, ``pi_l = precision * pi_{l+1}``, then the gradient of ``E / (nudge * count)`` with
    respect to the parameters. The rate of a stage is ``rate / pi_l``, pi_l being the curvature of its own error.

    While it descends, parameters are frozen, random numbers are those of the forward pass, and running statistics see
    the forward pass alone. The input is clamped, so mu_1 = f_1(s_0) is evaluated once.

    ``tolerance`` > 0 ends it as soon as the stationarity is no larger. ``passes`` counts evaluations, input gradients
    and weight gradients of a stage, each as one.
    """

    def __init__(
        self,
        chain: Chain,
        *,
        rate: float,
        precision: float = 1.0,
        nudge: float = 1.0,
        optimizer: StateOptimizer | None = None,
        tolerance: float = 0.0,
        trace: Trace | None = None,
    ) -> None:
        self.chain, self.rate, self.precision, self.nudge = chain, rate, precision, nudge
        self.tolerance, self.trace = tolerance, trace
        self.optimizer = optimizer or Sgd(rate)
        self.free: list[Tensor] = []
        self.predictions: list[Tensor] = []
        self.errors: list[Tensor] = []  # what the weights learn from, once settled: mu - s - offset
        self.offsets: list[Tensor] = []  # what multipliers add to the errors, where there are any
        self.direction: list[Tensor] = []  # -dE/d free / pi of what the last step moved
        self.injected: Tensor | None = None  # the first residual: the error that the loss injects
        self.loss: Loss  # at the current states
        self.forward_loss: Loss  # after the forward pass
        self.passes = 0
        self.steps = 0  # settling steps made
        self._last = len(chain) - 1
        self.precisions, self.metric = self._units([self._last - 1 - index for index in range(self._last)])
        self._replay = Replay(chain.input.device)

    def _units(self, heights: list[int]) -> tuple[list[float], list[float]]:
        """For hidden stages so far below the top: what an error of one pulls at its own prediction, and twice its
        energy. In the units of the states both are pi."""
        pi = [self.precision**height for height in heights]
        return pi, pi

    def run(self, steps: int) -> list[Tensor | None]:
        """Settle for ``steps``; the gradient for each of ``chain.parameters``, None for zero."""
        with torch.enable_grad(), ExitStack() as after_forward:
            self._forward()
            after_forward.enter_context(still_statistics(self.chain.stages))
            if self.free:
                with frozen(self.chain.parameters):
                    self._move()
                    while self.steps < steps and not self._settled():
                        self._predict_moved()
                        self._move()
            return self._weight_gradients()

    def curvature(self) -> float:
        """Largest eigenvalue of the Hessian of E at the forward pass, in the metric of the precisions: a fixed rate
        above 2 / curvature diverges. 0 where nothing is free."""
        device = self.chain.input.device.type
        # differences of half-precision values would be noise
        with torch.enable_grad(), torch.autocast(device, enabled=False), still_statistics(self.chain.stages):
            self._forward()
            if not self.free:
                return 0.0
            with frozen(self.chain.parameters):
                return largest_curvature(self._direction_anew, self.free, self.metric, self.predictions)

    def residual(self) -> Tensor:
        """Norm of the last direction in the metric of the precisions, ``sqrt(sum_l pi_l |direction_l|^2)``."""
        roots = [math.sqrt(weight) for weight in self.metric[-len(self.direction) :]]
        return torch.stack(
            [norm * root for norm, root in zip(torch._foreach_norm(self.direction), roots, strict=True)]
        ).norm()

    @torch.no_grad()
    def energies(self) -> list[float]:
        """Of each hidden stage and then the loss's, summed over the batch, in units of the loss (divided by nudge)."""
        errors = self._prediction_errors()
        if self.offsets:
            errors = list(torch._foreach_sub(errors, self.offsets))
        *parts, objective = self._numbers(errors, [self.loss.objective.detach()])
        return [*self._parts(parts), objective]

    @torch.no_grad()
    def scalars(self) -> dict[str, float]:
        """Energies per counted target and the stationarity, once settled, in one transfer from the device."""
        ends = [self.forward_loss.objective.detach(), self.loss.objective.detach()]
        drive = [] if self.injected is None else [self.residual(), self.injected]
        found = self._numbers(self.errors, [*ends, *drive])
        count, hidden = max(self.loss.count, 1), len(found) - len(ends) - len(drive)
        energies = self._parts(found[:hidden])
        start, end, *drove = found[hidden:]
        residual, injected = drove or (0.0, 0.0)
        named = {
            "energy": (end + sum(energies)) / count,
            "energy_start": start / count,
            "stationarity": residual / injected if injected else 0.0,
        }
        return named | {f"energy_{index + 1}": value / count for index, value in enumerate(energies)}

    def _numbers(self, errors: list[Tensor], more: list[Tensor]) -> list[float]:
        """The norms of ``errors`` and of the offsets, then ``more``."""
        norms = torch._foreach_norm([*errors, *self.offsets]) if errors else ()
        found: list[float] = torch.stack([*norms, *more]).tolist()
        return found

    def _parts(self, norms: list[float]) -> list[float]:
        """Energies of the hidden stages in units of the loss: pi / (2 nudge) (|e|^2 - |offset|^2)."""
        hidden = len(self.metric)
        taken = norms[hidden:] or [0.0] * hidden
        weights = [0.5 * weight / self.nudge for weight in self.metric]
        return [w * e * e - w * u * u for w, e, u in zip(weights, norms[:hidden], taken, strict=True)]

    def _step(self, direction: list[Tensor]) -> None:
        self.direction = direction
        with torch.no_grad():
            self.optimizer.step(self.free, direction)
        self.steps += 1
        if self.injected is None:
            self.injected = self.residual()
        if self.trace is not None:
            self.trace.stationarity.append(self.stationarity())

    def stationarity(self) -> float:
        """What is left of the error that the loss injected."""
        if self.injected is None:
            return 0.0
        left, injected = torch.stack([self.residual(), self.injected]).tolist()
        return left / injected if injected else 0.0

    def rose(self, start: float, end: float) -> bool:
        """Whether the energy ended above where it began, or is no number; both in units of the loss."""
        rise = (end - start) * math.copysign(1.0, self.nudge)
        return reduce_max(rise - 1e-3 * abs(start) - 1e-6) > 0

    def _settled(self) -> bool:
        return self.tolerance > 0 and reduce_max(self.stationarity()) <= self.tolerance

    def _note_energies(self) -> None:
        if self.trace is not None:
            self.trace.energies.append(self.energies())

    def _forward(self) -> None:
        """The forward pass: fills free, predictions and loss."""
        raise NotImplementedError("abstract: a descent defines _forward()")

    def _predict_moved(self) -> None:
        """Evaluate anew what the last step changed."""
        raise NotImplementedError("abstract: a descent defines _predict_moved()")

    def _move(self) -> None:
        """One step of the free variables."""
        raise NotImplementedError("abstract: a descent defines _move()")

    def _direction_anew(self) -> list[Tensor]:
        """Evaluate everything, then -dE/d free / pi of every free variable."""
        raise NotImplementedError("abstract: a descent defines _direction_anew()")

    def _prediction_errors(self) -> list[Tensor]:
        """mu - s of every hidden stage."""
        raise NotImplementedError("abstract: a descent defines _prediction_errors()")

    def _weight_gradients(self) -> list[Tensor | None]:
        raise NotImplementedError("abstract: a descent defines _weight_gradients()")

    def _pull_weights(self, first: int = 0) -> list[Tensor | None]:
        """dE/d theta / (nudge * count) at the current evaluation; stages before ``first`` have no error."""
        chain, scale = self.chain, 1.0 / max(self.loss.count, 1)
        outputs: list[Tensor] = []
        pulls: list[Tensor] = []
        for index in range(first, self._last):
            if self.predictions[index].requires_grad:
                outputs.append(self.predictions[index])
                pulls.append(self.errors[index] * (scale * self.precisions[index] / self.nudge))
        if self.loss.objective.requires_grad:
            outputs.append(self.loss.objective)
            pulls.append(torch.full_like(self.loss.objective, scale))
        self.passes += len(chain) - first
        if not outputs or not chain.parameters:
            return [None] * len(chain.parameters)
        return list(torch.autograd.grad(outputs, chain.parameters, pulls, allow_unused=True))
