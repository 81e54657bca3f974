"""The trainable parameters of a model as one vector (P,), which is what strategies compute with."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def parameters(model: nn.Module) -> list[nn.Parameter]:
    """The trainable parameters of ``model``, each once, in its own order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def values(model: nn.Module) -> Tensor:
    """A copy of the parameters, (P,)."""
    return torch.cat([parameter.detach().flatten() for parameter in parameters(model)])


def gradient(model: nn.Module) -> Tensor:
    """A copy of their ``.grad``, (P,); zeros where there is none."""
    return torch.cat(
        [
            torch.zeros_like(parameter).flatten() if parameter.grad is None else parameter.grad.flatten()
            for parameter in parameters(model)
        ]
    )


def add_to_gradient(model: nn.Module, vector: Tensor) -> None:
    """``.grad`` plus ``vector`` (P,)."""
    set_gradient(model, gradient(model) + vector)


def set_gradient(model: nn.Module, vector: Tensor) -> None:
    """``.grad`` from ``vector`` (P,)."""
    start = 0
    for parameter in parameters(model):
        parameter.grad = vector[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
