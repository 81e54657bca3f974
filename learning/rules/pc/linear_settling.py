"""Settling without autograd, for chains of linear layers: the same states, the same numbers, fewer products."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from learning.chain import Chain, trainable
from learning.rules.pc.layers import Layer, add, layer_of
from learning.rules.pc.settling import Settling
from learning.rules.pc.state_optimizers import Sgd
from learning.rules.pc.tops import Top, top_of


class LinearSettling(Settling):
    """:class:`Settling` where every hidden stage but the first is ``f_l(x) = phi(W_l x + b_l)``, states as rows (N, D):

        J_l^T eps = W_l^T (phi'(a_l) eps),     dE/dW_l = -(phi'(a_l) eps_l) s_{l-1}^T

    The Gram form serves the lowest of these stages. Its input s_1 has a constant prediction mu_1, so under plain steps
    s_1 never leaves mu_1 + the row space of W_2, and its coordinates R there are enough:

        s_1 = mu_1 + R W_2,     a_2 = a_2(0) + R G,     G = W_2 W_2^T (once)
        R <- R - rate (R + phi'(a_2) (mu_2 - s_2) / precision)

    One product of (N, out) by (out, out) a step where evaluation and pull take two of
    (N, in) by (in, out). |R W_2|^2 = <R, R G> gives the norms. It is used where it takes fewer multiplications.

    ``passes`` counts what the algorithm passes through stages, as on the generic path.
    """

    def __init__(self, chain: Chain, *, layers: list[Layer], **options: Any) -> None:
        super().__init__(chain, **options)
        self.layers = layers  # of stages 1 .. last - 1
        below = layer_of(chain.stages[0]) if chain.input.dim() == 2 else None
        self.bottom = below if below is None or below.dropout is None else None
        self._drives: list[Tensor] = []
        self._masks: list[Tensor | None] = []
        self._top: Top
        self._gram: Tensor | None = None  # G, where the Gram form is used: free[0] is R then
        self._base: Tensor  # mu_1
        self._planned = 0  # steps
        self._gliding = False  # whether the last step went without its direction
        self._lifted: tuple[Tensor, Tensor] | None = None  # the last D and D G

    @torch.no_grad()
    def run(self, steps: int) -> list[Tensor | None]:
        self._planned = steps
        self._forward()
        self._move()
        while self.steps < steps and not self._settled():
            self._predict_moved()
            self._move()
        return self._weight_gradients()

    def _forward(self) -> None:
        chain = self.chain
        if self.bottom is not None:
            self._bottom_drive = self.bottom.drive(chain.input)
            prediction = self.bottom.value(self._bottom_drive)
        else:
            with torch.enable_grad():
                prediction = self._bottom = self._replay.record(0, chain.stage, 0, chain.input)
        with torch.no_grad():
            x = prediction.detach().reshape(-1, prediction.shape[-1])
            self._base = x
            self.predictions, self.free = [x], []
            for index, layer in enumerate(self.layers, 1):
                mask = self._replay.record(index, layer.mask, x) if layer.dropout else None
                drive = layer.drive(x if mask is None else x * mask)
                x = layer.value(drive)
                self.free.append(x.clone())
                self._masks.append(mask)
                self._drives.append(drive)
                self.predictions.append(x)
            self._top = top_of(self.chain, x, prediction.shape[:-1] + x.shape[-1:], self._replay)
            self._top.evaluate(x)
            self.loss = self.forward_loss = self._top.loss()
            if self._saves():
                weight = self.layers[0].weight
                self._gram = weight @ weight.t()
                self._start = self._drives[0]
                self._drives[0] = self._start.clone()
                self.free.insert(0, torch.zeros_like(self._start))
            else:
                self.free.insert(0, self._base.clone())
        self.passes += len(self.chain)

    def _saves(self) -> bool:
        """Whether the Gram form applies and takes fewer multiplications."""
        if self.spiking or type(self.optimizer) is not Sgd or self._masks[0] is not None:
            return False
        moves = self._planned - (self._last - 1 if self.wavefront else 1)
        rows, (out, fan_in) = len(self._base), self.layers[0].weight.shape
        with_gram = fan_in * out * out + moves * rows * out * out + rows * fan_in * out
        return with_gram < 2 * moves * rows * fan_in * out

    def _predict(self, first: int) -> None:
        for index in range(max(first, 1), self._last):
            layer = self.layers[index - 1]
            if index == 1 and self._gram is not None:
                drive = self._drives[0]
                if self._gliding:
                    torch.addmm(self._start, self.free[0], self._gram, out=drive)
                elif len(self.direction) == self._last:
                    drive.add_(self._lift(self.direction[0]), alpha=self.rate)
            else:
                mask, x = self._masks[index - 1], self.free[index - 1]
                drive = self._drives[index - 1] = layer.drive(x if mask is None else x * mask)
            self.predictions[index] = layer.value(drive)
        self._top.evaluate(self.free[-1])
        self.passes += len(self.chain) - first

    def _lift(self, direction: Tensor) -> Tensor:
        """D G, once for each D."""
        assert self._gram is not None
        if self._lifted is None or self._lifted[0] is not direction:
            self._lifted = (direction, direction @ self._gram)
        return self._lifted[1]

    def _move(self) -> None:
        watched = self.trace is not None or self.tolerance > 0 or self.spiking
        inner = 0 < self.steps < self._planned - 1  # the first and the last step tell the stationarity
        self._gliding = inner and not watched and type(self.optimizer) is Sgd
        if self._gliding:
            self._glide(max(self._moved, 1))
        else:
            super()._move()

    def _glide(self, first: int) -> None:
        """A plain step in place, by as few passes over memory as it takes: no direction is kept."""
        rate, weigh = self.rate, 1.0 / self.precision
        for index in range(first, self._last):  # upwards: a state is read before it moves
            layer, mask, value = self.layers[index - 1], self._masks[index - 1], self.predictions[index]
            below = self.free[index - 1]
            pulled = layer.pull(self.free[index] - value, self._drives[index - 1], value)
            if index == 1 and self._gram is not None:
                below.lerp_(pulled if weigh == 1 else pulled * weigh, rate)
                continue
            below.lerp_(self.predictions[index - 1], rate)
            if mask is None:
                below.addmm_(pulled, layer.weight, alpha=rate * weigh)
            else:
                below.addcmul_(pulled @ layer.weight, mask, value=rate * weigh)
        self.free[-1].lerp_(self.predictions[-1], rate)
        self._top.pull(self.free[-1], rate * self.nudge)
        self.passes += len(self.chain) - first
        self.steps += 1
        self._moved = first - 1 if self.wavefront else 0

    def _directions(self, first: int) -> list[Tensor]:
        errors = self._pulling_errors(first - 1)
        weigh = -1.0 / self.precision
        for index in range(first, self._last):  # upwards: an error is read before it turns into a direction
            layer, mask = self.layers[index - 1], self._masks[index - 1]
            below, error = errors[index - first], errors[index - first + 1]
            pulled = layer.pull(error, self._drives[index - 1], self.predictions[index])
            if index == 1 and self._gram is not None:
                below.add_(pulled, alpha=weigh)
            elif mask is None:
                below.addmm_(pulled, layer.weight, alpha=weigh)
            else:
                below.addcmul_(pulled @ layer.weight, mask, value=weigh)
        self._top.pull(errors[-1], self.nudge)
        self.passes += len(self.chain) - first
        return errors

    def _pulling_errors(self, first: int) -> list[Tensor]:
        if self._gram is None or first:
            return super()._pulling_errors(first)
        return [self.free[0].neg(), *torch._foreach_sub(self.predictions[1:], self.free[1:])]

    def residual(self) -> Tensor:
        if self._gram is None or len(self.direction) < self._last:
            return super().residual()
        first = self.direction[0]
        bottom = (first * self._lift(first)).sum().clamp_min(0).sqrt()  # below 0 by rounding, if at all
        norms = [bottom, *torch._foreach_norm(self.direction[1:])]
        roots = [math.sqrt(pi) for pi in self.precisions]
        return torch.stack([norm * root for norm, root in zip(norms, roots, strict=True)]).norm()

    def _note_energies(self) -> None:
        if self.trace is not None:
            self.loss = self._top.loss()
        super()._note_energies()

    def _prediction_errors(self) -> list[Tensor]:
        if self._gram is None:
            return super()._prediction_errors()
        errors = torch._foreach_sub(self.predictions[1:], self.free[1:])
        bottom = torch.empty_like(self._base).addmm_(self.free[0], self.layers[0].weight, beta=0, alpha=-1)
        return [bottom, *errors]

    def _pull_weights(self, first: int = 0) -> list[Tensor | None]:
        """dE/d theta / (nudge * count), a product a stage; the first stage's by autograd inside it."""
        self.loss = self._top.loss()
        chain, scale = self.chain, 1.0 / max(self.loss.count, 1)
        totals: dict[int, Tensor] = {}
        for index in range(first, self._last):
            error, weight = self.errors[index], scale * self.precisions[index] / self.nudge
            if index == 0:
                self._pull_first(error, weight, totals)
                continue
            layer, mask = self.layers[index - 1], self._masks[index - 1]
            x = self.free[index - 1]
            if index == 1 and self._gram is not None:
                x = self._base - self.errors[0]
            pulled = layer.pull(error, self._drives[index - 1], self.predictions[index])
            layer.fill(totals, pulled, x if mask is None else x * mask, weight)
        self._top.fill(totals, scale)
        self.passes += len(chain) - first
        return [totals.get(id(parameter)) for parameter in chain.parameters]

    def _pull_first(self, error: Tensor, weight: float, totals: dict[int, Tensor]) -> None:
        if self.bottom is not None:
            pulled = self.bottom.pull(error, self._bottom_drive, self._base)
            return self.bottom.fill(totals, pulled, self.chain.input, weight)
        parameters = trainable(self.chain.stages[:1])
        if self._bottom.requires_grad and parameters:
            pull = (error * weight).view(self._bottom.shape)
            found = torch.autograd.grad(self._bottom, parameters, pull, allow_unused=True)
            for parameter, gradient in zip(parameters, found, strict=True):
                if gradient is not None:
                    add(totals, parameter, gradient)
        return None
