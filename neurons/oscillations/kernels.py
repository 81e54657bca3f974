"""Coherence kernels: how the coupling of two oscillators depends on their phase difference d."""

from __future__ import annotations

import torch
from torch import Tensor

from neurons import KERNELS
from neurons.ops.cosine_series import Kernel


@KERNELS.register("von_mises")
class VonMises(Kernel):
    """``exp(kappa (cos d - 1))``: the circle's normal distribution; with it coherence is softmax attention exactly."""

    def __init__(self, *, kappa: float = 4.0) -> None:
        self.kappa = kappa

    def __call__(self, cosine: Tensor) -> Tensor:
        return torch.exp(self.kappa * (cosine - 1))


@KERNELS.register("sigmoid_cosine")
class SigmoidCosine(Kernel):
    """``sigmoid(kappa cos d)``: saturates near phase zero, so it discriminates less than von Mises at equal kappa."""

    def __init__(self, *, kappa: float = 4.0) -> None:
        self.kappa = kappa

    def __call__(self, cosine: Tensor) -> Tensor:
        return torch.sigmoid(self.kappa * cosine)


@KERNELS.register("raised_cosine")
class RaisedCosine(Kernel):
    """``((1 + cos d) / 2)^p`` with p = max(1, round(2 kappa)), whose curvature at zero is that of von Mises.

    Its series ends: M = p is exact.
    """

    def __init__(self, *, kappa: float = 4.0) -> None:
        self.kappa = kappa
        self.power = max(1, round(2 * kappa))

    def __call__(self, cosine: Tensor) -> Tensor:
        return ((1 + cosine) / 2).clamp_min(0) ** self.power
