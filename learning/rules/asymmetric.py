"""Backpropagation in which the error does not travel through the forward weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from learning.chain import Chain, stages_of, unsupported
from learning.rule import Rule, StepReport, Update
from learning.rules.cut import Cut
from neurons.errors import UsageError

WEIGHT_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class AsymmetricRule(Rule):
    """Base of rules that replace each weight W on the error's way down by a matrix V of the same shape.

    With ``a = W h + b`` a layer inside a stage, ``delta_h = V^T delta_a`` takes the place of ``W^T delta_a``; the
    weight learns by ``dW = delta_a h^T`` as in backpropagation. What has no weight (activations, norms, attention
    between tokens) keeps its exact derivative. Linear and convolutional layers have such weights; a stage that errors
    have to cross through others (dendritic trees, packed attention) is not supported. No error leaves the first stage,
    so its tables and other parameters are free.

    A subclass says what V is by ``feedback``. The graph is cut at every stage boundary.
    """

    local = True

    def supports(self, model: nn.Module) -> str | None:
        return unsupported(model) or _foreign_weight(stages_of(model))

    def feedback(self, name: str, layer: nn.Module) -> Tensor:
        """V of ``layer``, in the shape of its weight."""
        raise NotImplementedError("abstract: a rule defines feedback(name, layer)")

    def step(
        self, model: Any, batch: Any, *, loss: Callable[..., Any] | None = None, update: Update | None = None
    ) -> StepReport:
        chain = Chain(model, batch, loss)
        layers = weight_layers(chain.stages)
        with replaced(layers, {name: self.feedback(name, layer) for name, layer in layers.items()}):
            cut = Cut(chain)
        signal = cut.pull_loss()
        for index in range(len(chain) - 2, -1, -1):
            assert signal is not None
            signal = cut.pull(index, signal)
        return cut.fill()


def weight_layers(stages: Iterable[nn.Module]) -> dict[str, nn.Module]:
    """The Linear and convolutional layers of ``stages``, each once, named ``<stage>.<module>`` with stages from 0."""
    found: dict[int, tuple[str, nn.Module]] = {}
    for index, stage in enumerate(stages):
        for name, module in stage.named_modules():
            if isinstance(module, WEIGHT_LAYERS):
                found.setdefault(id(module), (f"{index}.{name}".rstrip("."), module))
    return dict(found.values())


def weight_of(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def affine(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A Linear or convolutional ``layer`` at ``x``, with other parameters."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    convolve: Any = layer
    output: Tensor = convolve._conv_forward(x, weight, bias)
    return output


@contextmanager
def replaced(layers: dict[str, nn.Module], weights: dict[str, Tensor]) -> Iterator[None]:
    """A forward pass inside is what it was, but carries errors down through ``weights``.

    Each layer becomes ``W sg(h) + b + (V h - sg(V h))``, sg the detached value: the bracket is zero, and its
    derivative is V. UsageError on leaving if a layer was never called, because a stage that reads the weight of its
    layer by itself sends the error through it.
    """
    called: set[str] = set()
    handles = []
    waiting: dict[str, Tensor] = {}
    for name, layer in layers.items():

        def before(module: nn.Module, arguments: tuple[Any, ...], name: str = name) -> tuple[Any, ...]:
            called.add(name)
            waiting[name] = arguments[0]
            return (arguments[0].detach(), *arguments[1:])

        def after(module: nn.Module, arguments: tuple[Any, ...], output: Tensor, name: str = name) -> Tensor:
            h = waiting.pop(name)
            if not (h.requires_grad and torch.is_grad_enabled()):
                return output
            carried = affine(module, h, weights[name])
            return output + (carried - carried.detach())

        handles += [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    for name in layers:
        if name not in called:
            raise UsageError(
                f"layer '{name}' was never called in the forward pass: an error could only cross it through its own "
                "weight. Call the layer, or try rule direct-feedback-alignment"
            )


def _foreign_weight(stages: list[nn.Module]) -> str | None:
    known = {id(weight_of(layer)) for layer in weight_layers(stages).values()}
    for index, stage in enumerate(stages):
        for name, module in stage.named_modules():
            if index == 0 or isinstance(module, nn.Embedding):
                continue
            for own, parameter in module.named_parameters(recurse=False):
                if parameter.dim() > 1 and parameter.requires_grad and id(parameter) not in known:
                    where = f"{name}.{own}".lstrip(".")
                    return (
                        f"stage {index + 1} ({type(stage).__name__}) holds '{where}', which is the weight of no Linear "
                        "or convolutional layer, and an error would cross it. Try rule direct-feedback-alignment"
                    )
    return None
