"""Stages that are a Linear and an elementwise nonlinearity, with their products written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from learning.chain import Chain

aten: Any = torch.ops.aten

Slope = Callable[[Tensor, Tensor, Tensor], Tensor]  # (error, drive a, value f(a)) -> error * f'(a)

# by the kernels that autograd would call
SLOPES: dict[type[nn.Module], Callable[[Any], Slope]] = {
    nn.Tanh: lambda module: lambda error, a, value: aten.tanh_backward(error, value),
    nn.Sigmoid: lambda module: lambda error, a, value: aten.sigmoid_backward(error, value),
    nn.ReLU: lambda module: lambda error, a, value: aten.threshold_backward(error, a, 0),
    nn.GELU: lambda module: lambda error, a, value: aten.gelu_backward(error, a, approximate=module.approximate),
    nn.SiLU: lambda module: lambda error, a, value: aten.silu_backward(error, a),
    nn.LeakyReLU: lambda module: (
        lambda error, a, value: aten.leaky_relu_backward(error, a, module.negative_slope, False)
    ),
    nn.Hardsigmoid: lambda module: lambda error, a, value: aten.hardsigmoid_backward(error, a),
    nn.Hardtanh: lambda module: (
        lambda error, a, value: aten.hardtanh_backward(error, a, module.min_val, module.max_val)
    ),
}


class Layer(NamedTuple):
    """``f(x) = value(weight x + bias)`` on rows x (N, in), after dropout; ``pull`` is the slope of ``value``."""

    weight: Tensor
    bias: Tensor | None
    value: Callable[[Tensor], Tensor]
    pull: Slope
    dropout: float | None
    linear: bool  # value is the identity

    def mask(self, x: Tensor) -> Tensor | None:
        """What dropout multiplies an input like x by, drawn as nn.Dropout draws it."""
        return None if self.dropout is None else F.dropout(torch.ones_like(x), self.dropout)

    def drive(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def fill(self, totals: dict[int, Tensor], pulled: Tensor, x: Tensor, scale: float) -> None:
        """Add ``scale`` times the gradients for an error ``pulled`` at the drive and an input x, by the parameter's
        id."""
        if self.weight.requires_grad:
            add(totals, self.weight, torch.empty_like(self.weight).addmm_(pulled.t(), x, beta=0, alpha=scale))
        if self.bias is not None and self.bias.requires_grad:
            add(totals, self.bias, pulled.sum(0).mul_(scale))


def add(totals: dict[int, Tensor], parameter: Tensor, gradient: Tensor) -> None:
    known = totals.get(id(parameter))
    totals[id(parameter)] = gradient if known is None else known + gradient


def layers_of(chain: Chain) -> list[Layer] | None:
    """The hidden stages above the first as layers, or None where one of them is anything else.

    A stage is recognised if it is an nn.Linear, an nn.Sequential, or has a method ``composition()`` that names the
    modules it applies one after another (and nothing else), and these are: nn.Dropout and nn.Identity, one nn.Linear,
    at most one activation of SLOPES, nn.Identity. None of them may be subclassed, hooked or work in place; autocast
    must be off. The first stage may be anything: its input is clamped, so it is evaluated once. There must be two
    hidden stages at least.
    """
    if len(chain) < 3 or torch.is_autocast_enabled(chain.input.device.type):
        return None
    layers: list[Layer] = []
    for stage in chain.stages[1:-1]:
        layer = layer_of(stage)
        if layer is None:
            return None
        layers.append(layer)
    return layers


def layer_of(stage: nn.Module) -> Layer | None:
    """``stage`` as a layer, if it is recognised."""
    modules = _modules(stage)
    if modules is None:
        return None
    linear: nn.Linear | None = None
    activation: nn.Module | None = None
    dropout: float | None = None
    for module in modules:
        kind = type(module)
        if _hooked(module) or vars(module).get("inplace"):
            return None
        if kind is nn.Identity or (kind is nn.Dropout and not (module.training and module.p)):
            continue
        if kind is nn.Dropout and linear is None and dropout is None:
            dropout = float(module.p)  # type: ignore[arg-type]
        elif kind is nn.Linear and linear is None:
            assert isinstance(module, nn.Linear)
            linear = module
        elif kind in SLOPES and linear is not None and activation is None:
            activation = module
        else:
            return None
    if linear is None:
        return None
    if activation is None:
        return Layer(linear.weight, linear.bias, lambda a: a, lambda error, a, value: error, dropout, True)
    slope = SLOPES[type(activation)](activation)
    return Layer(linear.weight, linear.bias, activation.forward, slope, dropout, False)


def _modules(stage: nn.Module) -> list[nn.Module] | None:
    if _hooked(stage):
        return None
    if type(stage) is nn.Sequential:
        found: list[nn.Module] = []
        for item in stage:
            inner = _modules(item)
            if inner is None:
                return None
            found += inner
        return found
    composition = getattr(type(stage), "composition", None)
    return [stage] if composition is None else list(composition(stage))


def _hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in vars(module)
    )
