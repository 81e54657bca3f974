"""Shifted sums over time, ``y_t = sum_i w_i x_{t + ahead - i}`` per channel: a depthwise convolution of few taps.

They beat torch's conv1d, whose layout wants time last. Tokens are taken in blocks that stay in the processor's cache,
and x is not padded: fresh memory costs more than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from neurons.specs import zero_masked

BLOCK = 2**18  # elements of x in hand at once: 1 MiB of float32


def delayed_sum_reference(x: Tensor, weight: Tensor, ahead: int, mask: Tensor | None = None) -> Tensor:
    """:func:`delayed_sum` by padding, differentiable twice."""
    taps, steps = len(weight), x.shape[1]
    padded = F.pad(zero_masked(x, mask), (0, 0, taps - 1 - ahead, ahead))
    shifted = [padded[:, taps - 1 - tap : taps - 1 - tap + steps] for tap in range(taps)]
    return zero_masked((torch.stack(shifted) * weight[:, None, None]).sum(0), mask)


def delayed_sum(x: Tensor, weight: Tensor, ahead: int, mask: Tensor | None = None) -> Tensor:
    """x (B, T, D), weight (taps, D), 0 <= ahead < taps -> (B, T, D); x is 0 before the first token and after the last.

    mask (B, T) bool: where it is False, x counts as 0 and so does the result. Differentiable once; under the compiler,
    which makes one loop of it, the reference.
    """
    if torch.compiler.is_compiling():
        return delayed_sum_reference(x, weight, ahead, mask)
    if not torch.is_grad_enabled():
        return _masked_sum(zero_masked(x, mask), weight, ahead, mask)
    result: Tensor = _DelayedSum.apply(x, weight, ahead, mask)
    return result


def _masked_sum(x: Tensor, weight: Tensor, ahead: int, mask: Tensor | None, sign: int = 1) -> Tensor:
    y = _sum(x, weight, ahead, sign)
    return y if mask is None else y.masked_fill_(~mask[..., None], 0)


def _blocks(x: Tensor) -> Iterator[tuple[slice, int, int]]:
    """Rows, and first and last + 1 token of every block."""
    batch, steps, width = x.shape
    size = max(1, BLOCK // width)
    rows = max(1, size // max(1, steps))
    for row in range(0, batch, rows):
        for start in range(0, steps, size):
            yield slice(row, row + rows), start, min(start + size, steps)


def _overlap(start: int, stop: int, shift: int, steps: int) -> tuple[slice, slice]:
    """Of the tokens from start to stop those t for which token t + shift exists, and these tokens."""
    first, last = max(start, -shift), min(stop, steps - shift)
    last = max(first, last)
    return slice(first, last), slice(first + shift, last + shift)


def _sum(x: Tensor, weight: Tensor, ahead: int, sign: int = 1) -> Tensor:
    """The sum over i of ``w_i x_{t + sign (ahead - i)}``."""
    y = torch.empty_like(x)
    others = [(tap, sign * (ahead - tap)) for tap in range(len(weight)) if tap != ahead]
    for rows, start, stop in _blocks(x):
        torch.mul(x[rows, start:stop], weight[ahead], out=y[rows, start:stop])
        for tap, shift in others:
            here, there = _overlap(start, stop, shift, x.shape[1])
            y[rows, here].addcmul_(x[rows, there], weight[tap])
    return y


def _correlation(grad: Tensor, x: Tensor, taps: int, ahead: int) -> Tensor:
    """``sum_t g_t x_{t + ahead - i}`` for each tap i, (taps, D)."""
    found = x.new_zeros(taps, x.shape[2])
    for rows, start, stop in _blocks(x):
        for tap in range(taps):
            here, there = _overlap(start, stop, ahead - tap, x.shape[1])
            found[tap] += (grad[rows, here] * x[rows, there]).sum((0, 1))
    return found


class _DelayedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, ahead: int, mask: Tensor | None) -> Tensor:
        x = zero_masked(x, mask)
        ctx.save_for_backward(x, weight, mask)
        ctx.ahead = ahead
        return _masked_sum(x, weight, ahead, mask)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mask = ctx.saved_tensors
        grad = zero_masked(grad, mask)
        of_x = _masked_sum(grad, weight, ctx.ahead, mask, -1) if ctx.needs_input_grad[0] else None
        of_weight = _correlation(grad, x, len(weight), ctx.ahead) if ctx.needs_input_grad[1] else None
        return of_x, of_weight, None, None
