"""How states follow their direction: plain steps, momentum, Adam."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

BETA1, BETA2, TINY = 0.9, 0.999, 1e-8


class StateOptimizer(Protocol):
    """``step`` moves the last ``len(directions)`` of ``states`` in place; those before them have direction zero."""

    def step(self, states: list[Tensor], directions: list[Tensor]) -> None: ...


class Sgd:
    """``s <- s + rate d``."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def step(self, states: list[Tensor], directions: list[Tensor]) -> None:
        torch._foreach_add_(states[-len(directions) :], directions, alpha=self.rate)


class Momentum:
    """``v <- momentum v + d``, ``s <- s + rate v``. Polyak 1964."""

    def __init__(self, rate: float, momentum: float) -> None:
        self.rate, self.momentum = rate, momentum
        self._velocity: list[Tensor] = []

    def step(self, states: list[Tensor], directions: list[Tensor]) -> None:
        if not self._velocity:
            self._velocity = [torch.zeros_like(state) for state in states]
        velocity = self._velocity[-len(directions) :]
        torch._foreach_mul_(velocity, self.momentum)
        torch._foreach_add_(velocity, directions)
        torch._foreach_add_(states[-len(directions) :], velocity, alpha=self.rate)


class Adam:
    """``m <- .9 m + .1 d``, ``v <- .999 v + .001 d^2``, ``s <- s + rate m^ / (sqrt(v^) + 1e-8)``, with m^ and v^ freed
    of their bias. Kingma & Ba 2015. A state that nothing has pulled at yet stays where it is."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._time = 0
        self._mean: list[Tensor] = []
        self._square: list[Tensor] = []

    def step(self, states: list[Tensor], directions: list[Tensor]) -> None:
        if not self._mean:
            self._mean = [torch.zeros_like(state) for state in states]
            self._square = [torch.zeros_like(state) for state in states]
        self._time += 1
        mean, square = self._mean[-len(directions) :], self._square[-len(directions) :]
        torch._foreach_lerp_(mean, directions, 1 - BETA1)
        torch._foreach_mul_(square, BETA2)
        torch._foreach_addcmul_(square, directions, directions, 1 - BETA2)
        below = torch._foreach_sqrt(square)
        torch._foreach_div_(below, math.sqrt(1 - BETA2**self._time))
        torch._foreach_add_(below, TINY)
        torch._foreach_addcdiv_(states[-len(directions) :], mean, below, self.rate / (1 - BETA1**self._time))


def make_state_optimizer(name: str, rate: float, momentum: float | None) -> StateOptimizer:
    """``sgd``, ``momentum`` (.9 unless said) or ``adam``."""
    if name == "adam":
        return Adam(rate)
    if name == "momentum":
        return Momentum(rate, 0.9 if momentum is None else momentum)
    return Sgd(rate)
