"""Synaptic intelligence: parameters that paid for the fall of the loss are held."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from baselines import STRATEGIES, flat
from learning.hooks import Strategy
from neurons.errors import UsageError
from neurons.specs import Batch


@STRATEGIES.register("si")
class SI(Strategy):
    """Adds ``strength sum_i Omega_i (theta_i - theta*_i)^2``, by its gradient.

    During a task the path integral ``omega_i = -sum_t g_i(t) (theta_i(t+1) - theta_i(t))`` of the task's own gradient
    gathers each parameter's share of the fall of the loss; after it ``Omega_i += omega_i / (Delta_i^2 + damping)``,
    Delta_i the way that the parameter went on this task, and theta* is where it is. Zenke, Poole & Ganguli 2017.
    """

    def __init__(self, *, strength: float = 1.0, damping: float = 0.1) -> None:
        self.strength, self.damping = strength, damping
        if strength < 0 or damping <= 0:
            raise UsageError("si: strength is at least 0 and damping above 0")
        self.state: dict[str, Tensor] = {}

    def before_task(self, model: nn.Module, task: Any) -> None:
        theta = flat.values(model)
        importance = self.state.get("importance", torch.zeros_like(theta))
        self.state = {"importance": importance, "anchor": theta, "path": torch.zeros_like(theta)}

    def gradient(self, model: nn.Module, batch: Batch) -> None:
        theta, slope = flat.values(model), flat.gradient(model)
        self._walk(theta)
        self.state["theta"], self.state["slope"] = theta, slope
        pull = 2 * self.strength * self.state["importance"] * (theta - self.state["anchor"])
        flat.set_gradient(model, slope + pull)

    def after_task(self, model: nn.Module, task: Any) -> None:
        theta = flat.values(model)
        self._walk(theta)
        moved = theta - self.state["anchor"]
        importance = self.state["importance"] + self.state["path"] / (moved.square() + self.damping)
        self.state = {"importance": importance, "anchor": theta}

    def _walk(self, theta: Tensor) -> None:
        """The step that the optimiser took since the last gradient."""
        if "slope" in self.state:
            self.state["path"] = self.state["path"] - self.state["slope"] * (theta - self.state["theta"])

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.state)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.state = dict(state)
