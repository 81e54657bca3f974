"""The membrane of leaky integrate-and-fire neurons along a sequence.

    U_t = beta U_{t-1} + I_t - theta H(U_{t-1} - theta),    H the unit step: a spike, S_t = H(U_t - theta), costs theta

which is snntorch's ``Leaky`` with reset by subtraction. The reset carries no gradient, so backwards the membrane is a
plain leaky sum, ``dL/dI_t = dL/dU_t + beta dL/dI_{t+1}``, however often it fired. A masked step takes no time: the
membrane stays where it was. Source: Eshraghian et al. 2023 (snntorch).

``membrane_reference`` is the recurrence as autograd sees it. ``membrane`` writes all steps into one tensor, three
operations each (four with a mask), and walks back with one. Differentiable once.
Shapes: current (B, T, S); start (B, S), the membrane before step 0, or None for zero; mask (B, T) bool -> U (B, T, S).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def membrane_reference(
    current: Tensor, beta: float, threshold: float, start: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """One step after the other."""
    potential = torch.zeros_like(current[:, 0]) if start is None else start
    steps = []
    for t in range(current.shape[1]):
        reset = threshold * (potential > threshold).to(current.dtype)
        new = beta * potential + current[:, t] - reset
        potential = new if mask is None else torch.where(mask[:, t, None], new, potential)
        steps.append(potential)
    return torch.stack(steps, 1)


def membrane(
    current: Tensor, beta: float, threshold: float, start: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """The same, fast."""
    if start is None:
        start = current.new_zeros(current.shape[0], current.shape[2])
    potential: Tensor = _Membrane.apply(current, start, beta, threshold, mask)
    return potential


class _Membrane(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, current: Tensor, start: Tensor, beta: float, threshold: float, mask: Tensor | None) -> Tensor:
        ctx.beta, ctx.mask = beta, mask
        # Time first: a step is then one stretch of memory.
        potential = current.transpose(0, 1).clone(memory_format=torch.contiguous_format)
        before, fired = start, torch.empty_like(start)
        masked = None if mask is None else (~mask).t().unsqueeze(-1).unbind(0)
        for t, now in enumerate(potential.unbind(0)):
            torch.gt(before, threshold, out=fired)
            now.add_(before, alpha=beta).sub_(fired, alpha=threshold)
            if masked is not None:
                torch.where(masked[t], before, now, out=now)
            before = now
        return potential.transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        total = grad.transpose(0, 1).clone(memory_format=torch.contiguous_format)
        steps, beta = total.unbind(0), ctx.beta
        if ctx.mask is None:
            for t in range(len(steps) - 1, 0, -1):
                steps[t - 1].add_(steps[t], alpha=beta)
            return total.transpose(0, 1), beta * steps[0], None, None, None
        real = ctx.mask.t().unsqueeze(-1)
        decay = total.new_ones(real.shape).masked_fill(real, beta).unbind(0)
        for t in range(len(steps) - 1, 0, -1):
            steps[t - 1].addcmul_(steps[t], decay[t])
        return (total * real).transpose(0, 1), decay[0] * steps[0], None, None, None
