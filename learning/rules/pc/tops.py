"""The loss on the last hidden state, and how it pulls: by hand where it is known, else by autograd in the readout."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from learning.chain import Chain, trainable
from learning.rules.pc.layers import Layer, add, layer_of
from learning.rules.settle import Replay, still_statistics
from neurons.model import Model
from neurons.readouts import LabelReadout
from neurons.specs import Loss


class Top(Protocol):
    """Bound to one batch. ``evaluate(x)`` first, on rows x (N, D); the others speak of that x."""

    def evaluate(self, x: Tensor) -> None: ...

    def loss(self) -> Loss: ...

    def pull(self, direction: Tensor, weight: float) -> None:
        """``direction -= weight * d objective / dx``, in place."""

    def fill(self, totals: dict[int, Tensor], scale: float) -> None:
        """Add ``scale * d objective / d theta`` for the readout's parameters, by their id."""


class AnyTop:
    """The readout and the loss as they are, differentiated by autograd: one call inside the last stage."""

    def __init__(self, chain: Chain, shape: torch.Size, replay: Replay) -> None:
        self.chain, self.shape, self.replay = chain, shape, replay
        self._again = False

    def evaluate(self, x: Tensor) -> None:
        last = len(self.chain) - 1
        call = self.replay if self._again else self.replay.record
        frozen_statistics = still_statistics(self.chain.stages[-1:]) if self._again else nullcontext()
        self._again = True
        self._x = x.detach().clone().requires_grad_()  # x moves in place
        with torch.enable_grad(), frozen_statistics:
            self._loss = call(last, self.chain.loss, self._x.view(self.shape))

    def loss(self) -> Loss:
        return self._loss

    def pull(self, direction: Tensor, weight: float) -> None:
        if self._loss.objective.requires_grad:
            (found,) = torch.autograd.grad(self._loss.objective, self._x, allow_unused=True)
            if found is not None:
                direction.sub_(found, alpha=weight)

    def fill(self, totals: dict[int, Tensor], scale: float) -> None:
        parameters = trainable(self.chain.stages[-1:])
        objective = self._loss.objective
        if objective.requires_grad and parameters:
            pull = torch.full_like(objective, scale)
            found = torch.autograd.grad(objective, parameters, pull, allow_unused=True)
            for parameter, gradient in zip(parameters, found, strict=True):
                if gradient is not None:
                    add(totals, parameter, gradient)


class LinearTop:
    """A linear readout with logits p = W x + b under cross-entropy or squared error:

    d objective / dx = W^T (softmax(p) - onehot(y)),     or     W^T 2 (p - y) / C
    """

    def __init__(self, layer: Layer, target: Tensor, x: Tensor, mask: Tensor | None) -> None:
        self.layer, self.target = layer, target
        self._mask = mask
        self.entropy = not target.is_floating_point()
        classes = len(layer.weight)  # logits are kept as (C, N): softmax is several times faster along rows
        if self.entropy:
            self._wanted = x.new_zeros(classes, len(x)).scatter_(0, target[None], 1.0)
        else:
            self._wanted = target.t()
        bias = layer.bias
        self._bias = x.new_zeros(classes, 1) if bias is None else bias.detach()[:, None]

    def evaluate(self, x: Tensor) -> None:
        self._x = x if self._mask is None else x * self._mask
        self._logits = torch.addmm(self._bias, self.layer.weight, self._x.t())

    def loss(self) -> Loss:
        if self.entropy:
            total = -(self._logits.log_softmax(0) * self._wanted).sum()
        else:
            total = F.mse_loss(self._logits, self._wanted) * len(self.target)
        return Loss(total, total, len(self.target))

    def _error(self) -> Tensor:
        """d objective / dp, (N, C)."""
        if self.entropy:
            return self._logits.softmax(0).sub_(self._wanted).t()
        return (self._logits - self._wanted).mul_(2 / len(self._wanted)).t()

    def pull(self, direction: Tensor, weight: float) -> None:
        rows = self.layer.weight
        if self._mask is None:
            direction.addmm_(self._error(), rows, alpha=-weight)
        else:
            direction.addcmul_(self._error() @ rows, self._mask, value=-weight)

    def fill(self, totals: dict[int, Tensor], scale: float) -> None:
        self.layer.fill(totals, self._error(), self._x, scale)


def top_of(chain: Chain, x: Tensor, shape: torch.Size, replay: Replay) -> Top:
    """For the last hidden state, rows x (N, D) of a tensor of ``shape``. By hand: F.cross_entropy on class numbers and
    F.mse_loss under a plain linear readout, and LabelReadout's loss under one that is ``composition`` of it."""
    layer = layer_of(chain.stages[-1])
    target = chain.target
    if layer is None or not layer.linear or len(shape) != 2 or not isinstance(target, Tensor):
        return AnyTop(chain, shape, replay)
    size = torch.Size([shape[0]])
    classes = target.dtype == torch.int64 and target.shape == size and int(target.min()) >= 0
    if isinstance(chain.model, Model):
        own: nn.Module = chain.stages[-1]
        known = chain.criterion is None and classes and getattr(type(own), "loss", None) is LabelReadout.loss
    elif chain.criterion is F.cross_entropy:
        known = classes
    else:
        same = target.dtype == x.dtype and target.shape == (*size, len(layer.weight))
        known = chain.criterion is F.mse_loss and same
    if not known:
        return AnyTop(chain, shape, replay)
    mask = replay.record(len(chain) - 1, layer.mask, x) if layer.dropout else None
    return LinearTop(layer, target, x, mask)
