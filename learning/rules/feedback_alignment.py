"""Feedback alignment: errors travel down through fixed random matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from learning import RULES
from learning.chain import stages_of
from learning.rule import StepReport, Update
from learning.rules.asymmetric import AsymmetricRule, weight_layers, weight_of
from neurons.errors import UsageError


@RULES.register("feedback-alignment")
class FeedbackAlignment(AsymmetricRule):
    """Feedback alignment: ``delta_h = B^T delta_a`` in place of ``W^T delta_a``, B random and fixed.

    For stages ``s_l = f(W_l s_{l-1} + b_l)`` and the readout's error e:

        delta_l = (B_{l+1}^T delta_{l+1}) * f'(a_l),    dW_l = delta_l s_{l-1}^T,    delta_L = e

    No synapse has to know another's weight. In learning, W turns towards B until the update lies within 90 degrees
    of backpropagation's. Each Linear and convolutional layer has a B of its own, N(0, r^2) with r the root mean
    square of W when the rule is prepared (1 / sqrt(fan-in) where W is zero), drawn by ``seed``. With B = W it is
    backpropagation. B enters the checkpoint.

    Local: a stage learns from what it reads and from the error that the stage above hands down, which no forward
    weight has shaped. Lillicrap, Cownden, Tweed & Akerman 2016; convolutions and depth: Bartunov et al. 2018.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed
        self._matrices: dict[str, Tensor] = {}

    def prepare(self, model: nn.Module) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        self._matrices = {}
        for name, layer in weight_layers(stages_of(model)).items():
            weight = weight_of(layer).detach()
            size = float(weight.square().mean().sqrt()) or weight[0].numel() ** -0.5
            self._matrices[name] = torch.randn(weight.shape, generator=generator).to(weight) * size

    def step(
        self, model: Any, batch: Any, *, loss: Callable[..., Any] | None = None, update: Update | None = None
    ) -> StepReport:
        if not self._matrices:
            self.prepare(model)
        return super().step(model, batch, loss=loss, update=update)

    def feedback(self, name: str, layer: nn.Module) -> Tensor:
        matrix = self._matrices.get(name)
        if matrix is None or matrix.shape != weight_of(layer).shape:
            raise UsageError(
                f"the feedback matrices belong to another model: layer '{name}' has none of its shape. "
                "Call rule.prepare(model)"
            )
        return matrix.to(weight_of(layer))

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self._matrices)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._matrices = dict(state)
