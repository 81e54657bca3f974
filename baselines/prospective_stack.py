"""Small sigmoid nets side by side, several seeds and learning rates at a time: what predictive coding and what
backpropagation make of one batch, as products over a leading axis of nets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = list[Tensor]  # layer l: (S, R, out, in) for S seeds and R rates; no biases
Gradients = Callable[[Weights, Tensor, Tensor], Weights]


def xavier_normal(sizes: Sequence[int], *, seed: int, gain: float, dtype: torch.dtype = torch.float32) -> Weights:
    """(out, in) for each pair of neighbouring ``sizes``, normal with deviation gain sqrt(2 / (in + out)) (Glorot &
    Bengio 2010). Drawn in float64, so that every dtype starts from the same net."""
    random = torch.Generator().manual_seed(seed)
    drawn = []
    for inputs, outputs in pairwise(sizes):
        deviation = gain * (2 / (inputs + outputs)) ** 0.5
        drawn.append((deviation * torch.randn(outputs, inputs, generator=random, dtype=torch.float64)).to(dtype))
    return drawn


def drives(weights: Weights, x: Tensor) -> Weights:
    """z_l = W_l sigmoid(z_{l-1}), z_0 = W_0 x: (S, B, D) -> a (S R, B, out) for each layer, the last the answer."""
    seeds, rates, width, _ = weights[0].shape
    first = x @ weights[0].flatten(1, 2).transpose(1, 2)  # the rates of a seed share their input
    z = [first.view(seeds, -1, rates, width).transpose(1, 2).reshape(seeds * rates, -1, width)]
    for weight in weights[1:]:
        z.append(z[-1].sigmoid() @ weight.flatten(0, 1).transpose(1, 2))
    return z


def backprop(weights: Weights, x: Tensor, y: Tensor) -> Weights:
    """Gradients of sum_b |answer - y|^2 / 2 by hand: x (S, B, D), y (S, B, C) -> the weights' shapes."""
    z = drives(weights, x)
    deltas = [z[-1] - _for_all_rates(y, weights)]
    for weight, below in zip(reversed(weights[1:]), reversed(z[:-1]), strict=True):
        a = below.sigmoid()
        deltas.insert(0, deltas[0] @ weight.flatten(0, 1) * (a - a * a))
    return _outer(weights, x, [below.sigmoid() for below in z[:-1]], deltas)


def predictive_coding(steps: int, rate: float) -> Gradients:
    """Gradients of the energy at states that settled for ``steps`` at ``rate``, from the forward pass.

        E = sum_l |e_l|^2 / 2 + |answer - y|^2 / 2,   e_l = s_l - W_l sigmoid(s_{l-1}),   e_0 = s_0 - W_0 x
        s_l <- s_l - rate (e_l - sigmoid'(s_l) W_{l+1}^T e_{l+1}), all l at once

    States s_l are the drives of the hidden layers, before their sigmoid, as in Song et al. 2024. The hidden layers are
    of one width, so that all of them are one tensor (L, S R, B, H) and each step three batched products. What ``spc``
    of the library's predictive-coding rule computes net by net.
    """

    def gradients(weights: Weights, x: Tensor, y: Tensor) -> Weights:
        *hidden, _ = drives(weights, x)
        target, first = _for_all_rates(y, weights), hidden[0]
        s = torch.stack(hidden)
        a, e, pull = torch.empty_like(s), torch.empty_like(s), torch.empty_like(s)
        up = torch.stack([weight.flatten(0, 1) for weight in weights[1:-1]])  # (L - 1, S R, H, H)
        top = weights[-1].flatten(0, 1)
        flat = up.flatten(0, 1)
        for step in range(steps + 1):
            torch.sigmoid(s, out=a)
            torch.sub(s[0], first, out=e[0])
            torch.baddbmm(
                s[1:].flatten(0, 1), a[:-1].flatten(0, 1), flat.transpose(1, 2), alpha=-1, out=e[1:].flatten(0, 1)
            )
            missing = torch.baddbmm(target, a[-1], top.transpose(1, 2), alpha=-1)
            if step == steps:
                break
            torch.bmm(e[1:].flatten(0, 1), flat, out=pull[:-1].flatten(0, 1))
            torch.bmm(missing, top, out=pull[-1])
            s.sub_(e, alpha=rate)
            a.addcmul_(a, a, value=-1)  # the slope of the sigmoid
            s.addcmul_(a, pull, value=rate)
        return _outer(weights, x, list(a), [-error for error in [*e, missing]])

    return gradients


def train(weights: Weights, gradients: Gradients, x: Tensor, y: Tensor, rates: Tensor) -> None:
    """One step of plain descent on the sum over the batch, ``rates`` (R,) each on its own nets; in place."""
    for weight, gradient in zip(weights, gradients(weights, x, y), strict=True):
        weight.sub_(rates.view(1, -1, 1, 1) * gradient)


def errors(weights: Weights, x: Tensor, labels: Tensor, task: Tensor) -> Tensor:
    """Share of wrong answers (S, R, 2) on the rows of each of two tasks: x (n, D), labels and task (S, n)."""
    seeds, rates = weights[0].shape[:2]
    a = (x @ weights[0].flatten(0, 2).T).view(len(x), seeds * rates, -1).transpose(0, 1)
    for weight in weights[1:]:
        a = a.sigmoid() @ weight.flatten(0, 1).transpose(1, 2)
    wrong = (a.argmax(-1).view(seeds, rates, -1) != labels[:, None]).to(x.dtype)
    rows = F.one_hot(task, 2).to(x.dtype)
    return wrong @ rows / rows.sum(1, keepdim=True)


def _for_all_rates(y: Tensor, weights: Weights) -> Tensor:
    return y.repeat_interleave(weights[0].shape[1], 0)


def _outer(weights: Weights, x: Tensor, activities: list[Tensor], errors: list[Tensor]) -> Weights:
    """sum_b error_b activity_b^T of every layer, in the weights' shapes."""
    seeds, rates, width, _ = weights[0].shape
    first = errors[0].view(seeds, rates, -1, width).transpose(2, 3).flatten(1, 2) @ x
    return [
        first.view(weights[0].shape),
        *(
            (error.transpose(1, 2) @ a).view(weight.shape)
            for weight, a, error in zip(weights[1:], activities, errors[1:], strict=True)
        ),
    ]
