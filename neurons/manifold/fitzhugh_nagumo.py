"""FitzHugh-Nagumo dynamics: the smallest system that spikes and recovers.

    v' = v - v^3 / 3 - w + I,        w' = (v + a - b w) / tau

v is the membrane's potential, w its recovery, I the stimulus; all without units, time too. Below a threshold of I the
rest state is stable; a push across the middle branch of the cubic gives one large excursion (a spike) and a refractory
return. Sources: FitzHugh 1961; Nagumo, Arimoto & Yoshizawa 1962; Ascher, Ruuth & Wetton 1995 (IMEX multistep).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from neurons.errors import UsageError
from neurons.manifold.recompute import recomputed

Coupling = Callable[[Tensor], Tensor]


def integrate(
    v: Tensor,
    w: Tensor,
    stimulus: Tensor | float,
    *,
    dt: Tensor | float,
    steps: int,
    a: float = 0.7,
    b: float = 0.8,
    tau: float = 12.5,
) -> tuple[Tensor, Tensor]:
    """(v, w) after ``steps`` steps of ``dt`` under a constant stimulus; v, w and stimulus of shapes that broadcast.

    IMEX of second order, Crank-Nicolson Adams-Bashforth: the cubic is explicit, ``F = 3/2 F_n - 1/2 F_{n-1}``, the
    recovery implicit (trapezoid), so that no small tau limits dt; the first step is a Heun step, of the same order.
    Differentiable in v, w, stimulus and dt; the trajectory is computed again in backward, so that only these are kept.
    Raises UsageError for steps < 1, a dt or tau that is not above 0, and b < 0.
    """
    if steps < 1:
        raise UsageError(f"FitzHugh-Nagumo takes 1 step or more, not {steps}. Try: steps=3")
    if isinstance(dt, float | int) and dt <= 0:
        raise UsageError(f"FitzHugh-Nagumo needs a dt above 0, not {dt}. Try: dt=0.1")
    if tau <= 0 or b < 0:
        raise UsageError(f"FitzHugh-Nagumo needs tau > 0 and b >= 0, not {tau} and {b}. Try: tau=12.5, b=0.8")
    step, given = (
        torch.as_tensor(dt, dtype=v.dtype, device=v.device),
        torch.as_tensor(stimulus, dtype=v.dtype, device=v.device),
    )

    def run(v: Tensor, w: Tensor, given: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        return imex(v, w, given, dt=step, steps=steps, a=a, b=b, tau=tau)

    shape = torch.broadcast_shapes(v.shape, w.shape, given.shape, step.shape)
    return recomputed(run, v.expand(shape), w.expand(shape), given, step)


def imex(
    v: Tensor,
    w: Tensor,
    stimulus: Tensor,
    *,
    dt: Tensor,
    steps: int,
    a: float = 0.7,
    b: float = 0.8,
    tau: float = 12.5,
    coupling: Coupling | None = None,
) -> tuple[Tensor, Tensor]:
    """The steps of :func:`integrate`, kept for backward; ``coupling(v)`` is one more term of v' (diffusion)."""

    def force(v: Tensor, w: Tensor) -> Tensor:
        total = v - v.pow(3) / 3 - w + stimulus
        return total if coupling is None else total + coupling(v)

    half = dt / (2 * tau)

    def recover(v: Tensor, w: Tensor, after: Tensor) -> Tensor:
        return ((1 - half * b) * w + half * (v + after + 2 * a)) / (1 + half * b)

    now = force(v, w)
    guess = v + dt * now
    after = v + dt / 2 * (now + force(guess, recover(v, w, guess)))
    v, w = after, recover(v, w, after)
    for _ in range(steps - 1):
        before, now = now, force(v, w)
        after = v + dt * (1.5 * now - 0.5 * before)
        v, w = after, recover(v, w, after)
    return v, w


def response(stimulus: Tensor, *, dt: Tensor, steps: int, a: float = 0.7, b: float = 0.8, tau: float = 12.5) -> Tensor:
    """``v_K - v_rest`` of cells that begin at rest: :func:`integrate`'s own steps, in a third of its operations.

    In the deviations x, y from rest the constants cancel, ``x' = x (1 - v^2 - x (v + x / 3)) - y + I`` with v at rest
    and ``y' = (x - b y) / tau``; from x = y = 0 the first force is I, and the last recovery is not needed. Kept for
    backward as any chain of operations is: who calls this has it recomputed.
    """
    rest, _ = rest_state(0.0, a, b)
    slope, half = 1 - rest * rest, dt / (2 * tau)
    decay, gain = (1 - half * b) / (1 + half * b), half / (1 + half * b)

    def cubic(x: Tensor, slope: Tensor | float) -> Tensor:
        return x * (slope - x * (x / 3 + rest))

    guess = dt * stimulus
    x = guess + dt / 2 * cubic(guess, slope - gain)
    before, y = stimulus, gain * x
    for step in range(1, steps):
        now = stimulus + cubic(x, slope) - y
        last, x = x, x + dt * (1.5 * now - 0.5 * before)
        before = now
        if step < steps - 1:
            y = decay * y + gain * (last + x)
    return x


def rest_state(stimulus: float = 0.0, a: float = 0.7, b: float = 0.8) -> tuple[float, float]:
    """The fixed point where both nullclines meet, w = (v + a) / b and w = v - v^3 / 3 + I; unique for b < 1.

    v^3 / 3 + (1 / b - 1) v + a / b - I = 0 has one real root, by Cardano.
    """
    if not 0 < b < 1:
        raise UsageError(f"FitzHugh-Nagumo has one rest state for 0 < b < 1, not for {b}. Try: b=0.8")
    p, q = 3 * (1 / b - 1), 3 * (a / b - stimulus)
    root = (q * q / 4 + p**3 / 27) ** 0.5
    first, second = -q / 2 + root, -q / 2 - root
    v = sum(abs(part) ** (1 / 3) * (1 if part > 0 else -1) for part in (first, second))
    return v, (v + a) / b


class StepSize(nn.Module):
    """A learned step per channel, ``dt = most * sigmoid(theta)``, where the explicit cubic is accurate and stable."""

    def __init__(self, channels: int, *, most: float = 0.5, first: float = 0.25) -> None:
        super().__init__()
        start = math.log(first / (most - first))
        self.most, self.theta = most, nn.Parameter(torch.full((channels,), start))

    def forward(self) -> Tensor:
        return self.most * torch.sigmoid(self.theta)
