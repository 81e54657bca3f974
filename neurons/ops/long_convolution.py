"""Convolution over a whole sequence by zero-padded FFT: real tensors in, real tensors out, O(n log n)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def long_convolution_reference(x: Tensor, kernel: Tensor, behind: Tensor | None = None) -> Tensor:
    """The oracle of :func:`long_convolution`: every weight in a matrix."""
    steps = x.shape[-1]
    lag = torch.arange(steps)[:, None] - torch.arange(steps)
    weights = kernel[:, lag.clamp_min(0)].masked_fill(lag < 0, 0.0)
    if behind is not None and steps > 1:
        weights = weights + behind[:, (-lag - 1).clamp(0, steps - 2)].masked_fill(lag >= 0, 0.0)
    return torch.einsum("cts,bcs->bct", weights, x)


def long_convolution(x: Tensor, kernel: Tensor, behind: Tensor | None = None) -> Tensor:
    """``y_t = sum_{j <= t} kernel_{t-j} x_j + sum_{j > t} behind_{j-t-1} x_j``: x (B, C, n), kernel (C, n), behind
    (C, n - 1) -> (B, C, n). Without ``behind`` it is causal.

    The sequence is padded with zeros to 2n - 1 or more, so nothing wraps around. A compiled region sees one operator
    of real tensors, complex ones live inside it alone. All derivatives exist. Rounding reaches the past: about 1e-7 of
    the largest input, at every place.
    """
    steps = x.shape[-1]
    length = fast_length(2 * steps - 1)
    parts = [kernel]
    if behind is None:
        parts.append(kernel.new_zeros(kernel.shape[0], length - steps))
    else:
        parts += [kernel.new_zeros(kernel.shape[0], length - 2 * steps + 1), behind.flip(-1)]
    return circular_convolution(x, torch.cat(parts, -1))


def circular_convolution(x: Tensor, kernel: Tensor) -> Tensor:
    """The first n samples of ``y_t = sum_j kernel_{t-j} x_j``, t - j modulo N: x (B, C, n), kernel (C, N), N >= n."""
    out: Tensor = _circular(x, kernel)
    return out


def reversed_in_time(kernel: Tensor) -> Tensor:
    """``kernel_{-t}``, t modulo N: convolution with it is correlation with ``kernel`` (Plate's involution)."""
    return kernel.flip(-1).roll(1, -1)


def fast_length(least: int) -> int:
    """The smallest m 2^k with m in 1, 3, 5, 9, 15 that is ``least`` or more: lengths whose transforms are fast."""
    return min(m << max(0, (-(-least // m) - 1).bit_length()) for m in (1, 3, 5, 9, 15))


@torch.library.custom_op("neurons::circular_convolution", mutates_args=())
def _circular(x: Tensor, kernel: Tensor) -> Tensor:
    length, steps = kernel.shape[-1], x.shape[-1]
    spectrum = torch.fft.rfft(x, length).mul_(torch.fft.rfft(kernel))
    return torch.fft.irfft(spectrum, length)[..., :steps].contiguous()


@torch.library.custom_op("neurons::circular_kernel_gradient", mutates_args=())
def _kernel_gradient(gradient: Tensor, x: Tensor, length: int) -> Tensor:
    """``k_t = sum_b sum_s gradient_s x_{s-t}``, t modulo ``length``: two (B, C, n) -> (C, length)."""
    product = torch.fft.rfft(gradient, length) * torch.fft.rfft(x, length).conj()
    return torch.fft.irfft(product.sum(0), length)


@_circular.register_fake
def _(x: Tensor, kernel: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@_kernel_gradient.register_fake
def _(gradient: Tensor, x: Tensor, length: int) -> Tensor:
    return x.new_empty(x.shape[1], length)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
    x, kernel = ctx.saved_tensors
    wants_x, wants_kernel = ctx.needs_input_grad[:2]
    return (
        _circular(gradient, reversed_in_time(kernel)) if wants_x else None,
        _kernel_gradient(gradient, x, kernel.shape[-1]) if wants_kernel else None,
    )


def _kernel_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
    outer, x = ctx.saved_tensors
    return _circular(x, gradient), _circular(outer, reversed_in_time(gradient)), None


_circular.register_autograd(_backward, setup_context=_keep)
_kernel_gradient.register_autograd(_kernel_backward, setup_context=_keep)
