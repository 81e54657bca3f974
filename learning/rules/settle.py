"""The settling engine of predictive coding: states as free variables, one local pull per stage and step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from learning.chain import Chain
from neurons.specs import Loss

T = TypeVar("T")


class Settling:
    """States ``s_1 .. s_{L-1}`` of one batch, relaxing on

        E = sum_{l<L} pi_l/2 |s_l - f_l(s_{l-1})|^2 + objective(s_{L-1})        (sums over the batch)

    from the forward pass, all states at once, with ``mu_l = f_l(s_{l-1})``, J_l the Jacobian of f_l, and the precisions
    ``pi_{L-1} = 1``, ``pi_l = precision * pi_{l+1}``. The rate of a state is ``rate / pi_l``, pi_l being the curvature
    of its own error:

        s_l     <- s_l     + rate (mu_l - s_l + J_{l+1}^T (s_{l+1} - mu_{l+1}) / precision)
        s_{L-1} <- s_{L-1} + rate (mu_{L-1} - s_{L-1} - d objective / d s_{L-1})

    So the curvature along a stage's input is ``1 + |J|^2 / precision``: with unit precisions a trained stage that
    amplifies sevenfold gives 50, and settling crawls; with ``precision`` near |J|^2 all states settle together.

    Every stage is evaluated on a detached leaf, so autograd runs inside stages only. While the states move, parameters
    are frozen, random numbers are those of the forward pass, and running statistics do not see the states. The input
    is clamped, so mu_1 is evaluated once.

    ``wavefront``: after t steps only the last t states have left their predictions; the stages before them would give
    what they gave, and are not evaluated. That is exact. In any case the first step pulls from the loss alone, because
    after a forward pass no stage has an error.

    ``passes`` counts evaluations, input gradients and weight gradients of a stage.
    """

    def __init__(self, chain: Chain, *, rate: float, precision: float = 1.0, wavefront: bool = True) -> None:
        self.chain, self.rate, self.precision, self.wavefront = chain, rate, precision, wavefront
        self.states: list[Tensor] = []
        self.predictions: list[Tensor] = []
        self.errors: list[Tensor] = []  # mu - s, once settled
        self.direction: list[Tensor] = []  # -dE/ds / pi of the states that the last step moved
        self.injected: Tensor | None = None  # the first residual: the error that the loss injects
        self.loss: Loss  # at the current states
        self.forward_loss: Loss  # after the forward pass
        self.passes = 0
        self._last = len(chain) - 1
        self.precisions = [precision ** (self._last - 1 - index) for index in range(self._last)]
        self._moved = self._last  # states[_moved:] have left their predictions
        self._replay = Replay(chain.input.device)

    def run(self, steps: int) -> list[Tensor | None]:
        """Settle for ``steps``; the gradient of E / count for each of ``chain.parameters``, None for zero."""
        with torch.enable_grad(), ExitStack() as after_forward:
            self._forward()
            after_forward.enter_context(still_statistics(self.chain.stages))
            if self.states:
                with frozen(self.chain.parameters):
                    self._move()
                    for _ in range(steps - 1):
                        self._predict(self._moved + 1)
                        self._move()
            return self._weight_gradients()

    def _forward(self) -> None:
        chain, x = self.chain, self.chain.input
        with ExitStack() as settling:
            for index in range(self._last):
                prediction = self._replay.record(index, chain.stage, index, x)
                x = prediction.detach().clone().requires_grad_()
                self.predictions.append(prediction)
                self.states.append(x)
                if index == 0:  # clamped input: this evaluation, with its parameters, serves the weight step too
                    settling.enter_context(frozen(chain.parameters))
            self.loss = self.forward_loss = self._replay.record(self._last, chain.loss, x)
        self.passes += len(chain)

    def _predict(self, first: int) -> None:
        """Evaluate stages ``first ..`` anew, on the states as they are."""
        for index in range(first, self._last):
            self.predictions[index] = self._replay(index, self.chain.stage, index, self.states[index - 1])
        self.loss = self._replay(self._last, self.chain.loss, self.states[-1] if self.states else self.chain.input)
        self.passes += len(self.chain) - first

    def _move(self) -> None:
        first = max(self._moved, 1)  # the first stage with an error at its output and a state at its input
        states = self.states[first - 1 :]
        predictions = self.predictions[first - 1 :]
        with torch.no_grad():
            errors = torch._foreach_sub(predictions, states)
            above = errors[1:] if self.precision == 1 else [error / self.precision for error in errors[1:]]
        outputs: list[Tensor] = []
        pulls: list[Tensor | None] = []
        for output, pull in zip([*predictions[1:], self.loss.objective], [*above, None], strict=True):
            if output.requires_grad:  # not where a stage cuts the gradient
                outputs.append(output)
                pulls.append(pull)
        gradients = torch.autograd.grad(outputs, states, pulls, allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            torch._foreach_sub_(errors, gradients)
            torch._foreach_add_(states, errors, alpha=self.rate)
        self.direction = list(errors)
        if self.injected is None:
            self.injected = self.residual()
        self.passes += len(self.chain) - first
        self._moved = first - 1 if self.wavefront else 0

    def residual(self) -> Tensor:
        """Norm of the last direction in the metric of the precisions, ``sqrt(sum_l pi_l |direction_l|^2)``."""
        roots = [math.sqrt(pi) for pi in self.precisions[-len(self.direction) :]]
        return torch.stack(
            [norm * root for norm, root in zip(torch._foreach_norm(self.direction), roots, strict=True)]
        ).norm()

    def _weight_gradients(self) -> list[Tensor | None]:
        chain = self.chain
        self.states = [state.detach() for state in self.states]  # the weight step needs no input gradients
        self._predict(min(max(self._moved, 1), self._last))
        with torch.no_grad():
            self.errors = list(torch._foreach_sub(self.predictions, self.states)) if self.states else []
        scale = 1.0 / max(self.loss.count, 1)
        outputs: list[Tensor] = []
        pulls: list[Tensor] = []
        for index in range(self._moved, self._last):
            if self.predictions[index].requires_grad:
                outputs.append(self.predictions[index])
                pulls.append(self.errors[index] * (scale * self.precisions[index]))
        if self.loss.objective.requires_grad:
            outputs.append(self.loss.objective)
            pulls.append(torch.full_like(self.loss.objective, scale))
        self.passes += len(chain) - self._moved
        if not outputs or not chain.parameters:
            return [None] * len(chain.parameters)
        return list(torch.autograd.grad(outputs, chain.parameters, pulls, allow_unused=True))


class Replay:
    """Repeats the evaluation of a stage with the random numbers of its first.

    Whoever evaluates in the order of the chain, up to its end, leaves the generators where the first evaluations left
    them: the last stage that draws has the last word.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before: dict[int, list[Tensor]] = {}  # only of the stages that draw
        self._now: list[Tensor] | None = None

    def record(self, index: int, function: Callable[..., T], *arguments: object) -> T:
        before = self._now if self._now is not None else generators(self._device)
        value = function(*arguments)
        self._now = generators(self._device)
        if not all(torch.equal(a, b) for a, b in zip(before, self._now, strict=True)):
            self._before[index] = before
        return value

    def __call__(self, index: int, function: Callable[..., T], *arguments: object) -> T:
        if index in self._before:
            set_generators(self._device, self._before[index])
        return function(*arguments)


def generators(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    elif device.type == "mps":
        states.append(torch.mps.get_rng_state())
    return states


def set_generators(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states[1])


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """No graph is built through ``parameters`` inside; they require grad again afterwards."""
    parameters = list(parameters)
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextmanager
def still_statistics(stages: Iterable[nn.Module]) -> Iterator[None]:
    """Normalisations in training mode use the statistics of what they are given, and record none of it."""
    taken: list[tuple[nn.Module, str, Tensor]] = []
    try:
        for stage in stages:
            for module in stage.modules():
                if module.training and getattr(module, "track_running_stats", False):
                    for name in ("running_mean", "running_var", "num_batches_tracked"):
                        buffer = module._buffers.get(name)
                        if buffer is not None:
                            module._buffers[name] = None
                            taken.append((module, name, buffer))
        yield
    finally:
        for module, name, buffer in taken:
            module._buffers[name] = buffer
