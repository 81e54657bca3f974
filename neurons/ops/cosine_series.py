"""Even, 2*pi-periodic kernels and their cosine series ``k(d) = sum_m c_m cos(m d)``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from neurons import KERNELS
from neurons.errors import UsageError

SAMPLES = 4096
TOLERANCE = 1e-10  # of the summed tail: 64k tokens of it stay below 1e-6 of a single weight of one
FAST_TOLERANCE = 2.5e-8  # of the tail where denominators are 0.05 of the weights they sum or more: 1e-6 of the average

# Rounding of the FFT reaches 4e-15 of c_0 and changes with threads and memory alignment; weighted by m and summed over
# 2048 harmonics it would pass TOLERANCE. Smooth kernels have nothing left to lose below this.
NOISE = 2e-14


class Kernel:
    """A coherence kernel: how strongly two oscillators interact, as a function of the cosine of their phase difference.

    It is nonnegative and greatest at cosine 1. ``kappa`` is its concentration.
    """

    name: str  # set where it is registered
    kappa: float

    def __call__(self, cosine: Tensor) -> Tensor:
        raise NotImplementedError("abstract: a kernel defines __call__(cosine)")


@dataclass(frozen=True)
class CosineSeries:
    """A kernel with the coefficients c_0 .. c_M of its truncated cosine series and its value at zero, k(0).

    ``fast_order``: so many harmonics are enough where the sums do not cancel (see ``coherence_scan``).
    """

    kernel: Kernel
    coefficients: tuple[float, ...]
    peak: float
    fast_order: int

    @property
    def order(self) -> int:
        return len(self.coefficients) - 1

    def weights(self, like: Tensor) -> Tensor:
        """The weight of every feature [1, Re z^1..z^M, Im z^1..z^M], (2M + 1,), in the type of ``like``."""
        head, tail = self.coefficients[:1], self.coefficients[1:]
        return torch.tensor([*head, *tail, *tail], dtype=like.dtype, device=like.device)


def cosine_coefficients(kernel: Kernel) -> Tensor:
    """c_0 .. c_2048 of ``kernel`` in float64, from a real FFT of 4096 samples of one period.

    For von Mises these are ``c_0 = e^-kappa I_0(kappa)``, ``c_m = 2 e^-kappa I_m(kappa)`` (Jacobi-Anger expansion).
    """
    cosine = torch.from_numpy(np.cos(np.arange(SAMPLES) * (2 * math.pi / SAMPLES)))
    # In short pieces and by numpy's FFT: with several threads, torch's own were off by 1e-10 in one start of twelve.
    samples = np.concatenate([kernel(piece).numpy() for piece in cosine.split(256)])
    c = torch.from_numpy(np.fft.rfft(samples).real / SAMPLES)
    c[1:-1] *= 2
    return c.masked_fill_(c.abs() < NOISE * c.abs().max(), 0.0)


@lru_cache(maxsize=64)
def cosine_series(kernel: str = "von_mises", kappa: float = 4.0, order: int | None = None) -> CosineSeries:
    """The series of a registered kernel.

    ``order`` None takes the smallest M whose tail ``sum_{m>M} m |c_m|``, which bounds the errors of the kernel and of
    its derivative, is at most TOLERANCE of k(0).

    Raises UsageError for an unknown kernel, a kappa that is not positive and finite, an order below one or a kernel
    that is too sharp for 4096 samples.
    """
    if not (kappa > 0 and math.isfinite(kappa)):
        raise UsageError(f"kappa is a concentration above 0, not {kappa}. Try: kappa=4.0")
    with torch.device("cpu"):  # also where a model is built on the meta device
        built: Kernel = KERNELS.build(kernel, kappa=float(kappa))
        c = cosine_coefficients(built)
        peak = float(built(torch.ones((), dtype=torch.float64)))
        harmonics = torch.arange(len(c), dtype=torch.float64)
        tail = (harmonics * c.abs()).flip(0).cumsum(0).flip(0)  # tail[m] = sum over m' >= m
        if order is None:
            order, fast = (max(1, int((tail > each * peak).sum()) - 1) for each in (TOLERANCE, FAST_TOLERANCE))
        else:
            fast = order
    if not 1 <= order <= SAMPLES // 4:
        raise UsageError(f"a series of order {order} is out of range (1 to {SAMPLES // 4}). Try: a smaller kappa")
    return CosineSeries(built, tuple(c[: order + 1].tolist()), peak, fast)
