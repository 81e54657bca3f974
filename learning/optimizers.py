"""Optimisers by name, on torch.optim. The trainer supplies learning rate and weight decay.

Weight decay touches weights of two or more dimensions that are not embedding tables; biases, norm gains and
embeddings never decay. ``adamw`` decays decoupled, w <- (1 - lr * decay) w; ``sgd`` and ``adam`` add decay * w to the
gradient, as torch does.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from learning import OPTIMIZERS


class Optimizer:
    """Builds a torch optimiser for a model."""

    name: ClassVar[str]

    def build(self, model: nn.Module, *, lr: float, weight_decay: float) -> torch.optim.Optimizer:
        raise NotImplementedError("abstract: an optimizer defines build(model, lr, weight_decay)")


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters, each once, in one group that decays and one that does not; empty groups are left out."""
    tables = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (decayed if parameter.dim() >= 2 and id(parameter) not in tables else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _fused(model: nn.Module) -> bool:
    """One kernel per tensor where torch has it: elementwise, hence deterministic, and several times faster."""
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in model.parameters())


@OPTIMIZERS.register("sgd")
class SGD(Optimizer):
    """Stochastic gradient descent with heavy-ball momentum: v <- momentum v + g, w <- w - lr v."""

    def __init__(self, *, momentum: float = 0.9) -> None:
        self.momentum = momentum

    def build(self, model: nn.Module, *, lr: float, weight_decay: float) -> torch.optim.Optimizer:
        groups = parameter_groups(model, weight_decay)
        return torch.optim.SGD(groups, lr=lr, momentum=self.momentum, fused=_fused(model))


@OPTIMIZERS.register("adam")
class Adam(Optimizer):
    """Adaptive moments (Kingma and Ba, 2015)."""

    def __init__(self, *, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> None:
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def build(self, model: nn.Module, *, lr: float, weight_decay: float) -> torch.optim.Optimizer:
        groups, betas = parameter_groups(model, weight_decay), (self.beta1, self.beta2)
        return torch.optim.Adam(groups, lr=lr, betas=betas, eps=self.eps, fused=_fused(model))


@OPTIMIZERS.register("adamw")
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    def __init__(self, *, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> None:
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def build(self, model: nn.Module, *, lr: float, weight_decay: float) -> torch.optim.Optimizer:
        groups, betas = parameter_groups(model, weight_decay), (self.beta1, self.beta2)
        return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=self.eps, fused=_fused(model))
