"""Settling in the states' deviations from the forward pass, so that small errors keep their digits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from learning.chain import Chain
from learning.rules.pc.settling import Settling

TINY = 1e-30  # a deviation below it is none


class Deviations(Settling):
    """:class:`Settling` with free variables ``d_l = pi_l (s_l - x_l)``, x_l being the states of the forward pass, and
    errors ``e_l = pi_l eps_l``, both in units of the loss's gradient:

        d_l <- d_l - rate (e_l - J_{l+1}^T e_{l+1}),      e_l = d_l - pi_l (f_l(x_{l-1} + d_{l-1} / pi_{l-1}) - x_l)

    In the units of the states the errors of the stage k below the top are precision^k times smaller than those at the
    top, and float32 keeps seven digits: where a state and its prediction agree in six, their difference is noise. Here
    every error is as large as the gradient it stands for, and a deviation that is small beside its state goes through
    the stage above magnified,

        e_l = d_l - (f_l(x_{l-1} + c d_{l-1}) - x_l) / (c precision)
        c = max(1 / pi_{l-1}, share |x_{l-1}| / |d_{l-1}|),     share = sqrt(u) / 3

    with u the machine epsilon and |.| the largest entry. The curvature of f_l then costs about that share, 1e-4 in
    float32, 5e-9 in float64, .03 where autocast computes in bfloat16, and the rounding of an entry nine times as
    much. Deviations above that share of their state settle by the plain equations. The loss is read at the true state.
    """

    def __init__(self, chain: Chain, **options: Any) -> None:
        super().__init__(chain, **options)
        self.start: list[Tensor] = []  # x_l
        self._points: list[Tensor] = []  # x_l + c_l d_l
        self._scales: list[Tensor] = []  # c_l, a number for each state
        self._small: list[Tensor] = []  # share |x_l|
        self._holding = False

    def _units(self, heights: list[int]) -> tuple[list[float], list[float]]:
        return [1.0] * len(heights), [self.precision**-height for height in heights]

    @property
    def states(self) -> list[Tensor]:
        return [torch.add(x, d, alpha=unit) for x, d, unit in zip(self.start, self.free, self.metric, strict=True)]

    @property
    def _leaves(self) -> list[Tensor]:
        return self._points

    def _forward(self) -> None:
        super()._forward()
        self._points, self.free = self.free, []
        for x in self.predictions:
            x = x.detach()
            self.start.append(x)
            self.free.append(torch.zeros_like(x))
            self._scales.append(x.new_ones(()))
            self._small.append(x.abs().max() * rounding(x.dtype, x.device.type) ** 0.5 / 3)

    def _predict(self, first: int) -> None:
        for index in range(max(first - 1, 0), self._last):
            point = self._point(index).requires_grad_(not self._holding)
            self._points[index] = point
            if index + 1 < self._last:
                self.predictions[index + 1] = self._replay(index + 1, self.chain.stage, index + 1, point)
        self.loss = self._replay(self._last, self.chain.loss, self._points[-1] if self.free else self.chain.input)
        self.passes += len(self.chain) - first

    @torch.no_grad()
    def _point(self, index: int) -> Tensor:
        start, d, unit = self.start[index], self.free[index], self.metric[index]
        if index + 1 == self._last:
            return start + d
        size = d.abs().max()
        self._scales[index] = torch.where(size > TINY, self._small[index] / size, unit).clamp_min(unit)
        return torch.addcmul(start, d, self._scales[index])

    def _hold(self) -> None:
        self._holding = True

    def _pulls(self, errors: list[Tensor]) -> list[Tensor]:
        return errors

    def _errors_from(self, first: int) -> list[Tensor]:
        """``-e`` of ``free[first:]``; a stage not evaluated anew has its prediction of the forward pass."""
        errors = list(torch._foreach_sub(self.predictions[first:], self.start[first:]))
        for index, error in enumerate(errors, first):
            if index:
                error.div_(self._scales[index - 1] * self.precision)
        torch._foreach_sub_(errors, self.free[first:])
        return errors


def rounding(dtype: torch.dtype, device: str) -> float:
    """The machine epsilon of what stages of ``dtype`` compute in."""
    return torch.finfo(torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else dtype).eps
