"""Settling in the states' deviations from the forward pass, so that small errors keep their digits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from learning.chain import Chain
from learning.rules.pc.settling import Settling


class Deviations(Settling):
    """:class:`Settling` with free variables ``d_l = s_l - x_l``, x_l being the states of the forward pass:

        eps_l = d_l - (f_l(x_{l-1} + d_{l-1}) - x_l)

    A precision of p makes the errors of the stage k below the top p^k times smaller than those at the top, and float32
    keeps seven digits: where a state and its prediction agree in six, their difference is noise. Deviations are numbers
    of their own, and one that is small beside its state goes through the stage above magnified,

        eps_l = d_l - (f_l(x_{l-1} + c d_{l-1}) - x_l) / c,      c = max(1, sqrt(u) |x_{l-1}| / |d_{l-1}|)

    with u the machine epsilon: rounding and the curvature of f_l then cost a share of about sqrt(u) each, 3e-4 in
    float32, 1e-8 in float64. Deviations above that share of their state settle by the plain equations (c = 1). The loss
    is read at the true state.
    """

    def __init__(self, chain: Chain, **options: Any) -> None:
        super().__init__(chain, **options)
        self.start: list[Tensor] = []  # x_l
        self._points: list[Tensor] = []  # x_l + c_l d_l
        self._magnified: list[Tensor] = []  # c_l, a number for each state
        self._small: list[Tensor] = []  # sqrt(u) |x_l|
        self._holding = False

    @property
    def states(self) -> list[Tensor]:
        return list(torch._foreach_add(self.start, self.free)) if self.free else []

    @property
    def _leaves(self) -> list[Tensor]:
        return self._points

    def _forward(self) -> None:
        super()._forward()
        self._points, self.free = self.free, []
        if self._points:
            self.start = [prediction.detach() for prediction in self.predictions]
            self.free = [torch.zeros_like(x) for x in self.start]
            self._magnified = [x.new_ones(()) for x in self.start]
            self._small = [norm * torch.finfo(norm.dtype).eps ** 0.5 for norm in torch._foreach_norm(self.start)]

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
        start, d = self.start[index], self.free[index]
        if index + 1 == self._last:
            return start + d
        size = d.norm()
        self._magnified[index] = torch.where(size > 0, self._small[index] / size, 1.0).clamp_min(1.0)
        return torch.addcmul(start, d, self._magnified[index])

    def _hold(self) -> None:
        self._holding = True

    def _errors_from(self, first: int) -> list[Tensor]:
        """``-eps`` of ``free[first:]``; a stage not evaluated anew has its prediction of the forward pass."""
        errors = list(torch._foreach_sub(self.predictions[first:], self.start[first:]))
        for index, error in enumerate(errors, first):
            if index:
                error.div_(self._magnified[index - 1])
        torch._foreach_sub_(errors, self.free[first:])
        return errors
