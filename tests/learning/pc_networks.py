"""Small networks on which the learning rules are tested."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurons.dendrites.layer import DendriticLayer
from neurons.model import Model
from neurons.oscillations.gamma import GammaAttention
from neurons.readouts import LabelReadout
from neurons.specs import Batch, Context, InputSpec, OutputSpec, zero_masked


class Embed(nn.Module):
    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(size, width)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return zero_masked(self.table(x), context.mask)


class Mix(nn.Module):
    """Residual: every token gets an MLP of itself and of the mean over the real tokens."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(2 * width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        h = zero_masked(self.norm(x), context.mask)
        count = x.shape[1] if context.mask is None else context.mask.sum(1).clamp_min(1)[:, None, None]
        mean = (h.sum(1, keepdim=True) / count).expand_as(h)
        h = self.dropout(torch.tanh(self.up(torch.cat([h, mean], -1))))
        return zero_masked(x + self.down(h), context.mask)


class TinyModel(Model):
    """Embedding, ``depth`` mixing stages, label readout."""

    def __init__(self, *, depth: int = 2, width: int = 8, dropout: float = 0.0) -> None:
        super().__init__(InputSpec("tokens", 6, 20), OutputSpec("label", 3))
        mixing = [Mix(width, dropout) for _ in range(depth)]
        self.stages = nn.ModuleList([Embed(20, width), *mixing, LabelReadout(width=width, classes=3)])


def tiny_batch(size: int = 5, length: int = 6) -> Batch:
    return Batch(torch.randint(1, 20, (size, length)), torch.randint(0, 3, (size,)))


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.linear(x))


class Dendrites(nn.Module):
    """Tokens through dendritic neurons, with a skip."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.cells = DendriticLayer(basal=width, somas=6, branches=2, activation=kind, soma_activation="tanh")
        self.back = nn.Linear(6, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.back(self.cells(self.norm(x)))


class Gamma(nn.Module):
    """Tokens that hear each other by gamma coherence, with a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(width), nn.Linear(width, width)
        self.attention = GammaAttention(width=width, causal=False, heads=2, content_heads=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.mix(self.attention(self.norm(x), Context())))


class Case(NamedTuple):
    stages: nn.Sequential
    batch: tuple[Tensor, Tensor]
    loss: Callable[[Tensor, Any], Tensor]


def squared(prediction: Tensor, y: Tensor) -> Tensor:
    return 0.5 * (prediction - y).square().sum() / len(y)


def case(name: str) -> Case:
    """A float64 network with its batch and loss. Those called ``smooth-`` have no kinks."""
    torch.manual_seed(3)
    classes = torch.randint(0, 4, (6,))
    if name in ("conv", "smooth-conv"):
        pool = nn.MaxPool2d(2) if name == "conv" else nn.AvgPool2d(2)
        stages = nn.Sequential(
            nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.GELU()),
            nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.GELU(), pool),
            nn.Sequential(nn.Conv2d(4, 3, 3), nn.Tanh()),
            nn.Sequential(nn.Flatten(), nn.Linear(12, 4)),
        )
        return Case(stages.double(), (torch.randn(6, 2, 8, 8).double(), classes), F.cross_entropy)
    if name in ("attention", "smooth-attention"):
        block = {"d_model": 8, "nhead": 2, "dim_feedforward": 12, "dropout": 0.0, "batch_first": True}
        block["activation"] = F.relu if name == "attention" else F.gelu
        stages = nn.Sequential(
            nn.Linear(3, 8),
            nn.TransformerEncoderLayer(**block, norm_first=True),
            nn.TransformerEncoderLayer(**block),
            nn.Sequential(nn.Flatten(), nn.Linear(40, 4)),
        )
        return Case(stages.double(), (torch.randn(6, 5, 3).double(), classes), F.cross_entropy)
    if name == "residual":
        stages = nn.Sequential(nn.Linear(5, 7), *[Residual(7) for _ in range(4)], nn.Linear(7, 4))
        return Case(stages.double(), (torch.randn(6, 5).double(), classes), F.cross_entropy)
    if name in ("dendritic", "smooth-dendritic", "gamma"):
        if name == "gamma":
            blocks: list[nn.Module] = [Gamma(8), Gamma(8)]
        else:
            kind = "tanh" if name == "smooth-dendritic" else "leaky_relu"
            blocks = [Dendrites(8, kind), Dendrites(8, kind)]
        readout = nn.Sequential(nn.Flatten(), nn.Linear(40, 4))
        stages = nn.Sequential(nn.Linear(3, 8), *blocks, readout)
        return Case(stages.double(), (torch.randn(6, 5, 3).double(), classes), F.cross_entropy)
    sizes = (5, 7, 6, 8)
    hidden = [nn.Sequential(nn.Linear(a, b), nn.Tanh()) for a, b in pairwise(sizes)]
    stages = nn.Sequential(*hidden, nn.Linear(8, 4)).double()
    x = torch.randn(6, 5).double()
    if name == "mlp-squared":
        return Case(stages, (x, torch.randn(6, 4).double()), squared)
    return Case(stages, (x, classes), F.cross_entropy)


CASES = ["mlp-squared", "mlp-entropy", "conv", "attention", "residual", "dendritic", "gamma"]


def grads(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def backprop_grads(model: nn.Module, objective: Tensor) -> list[Tensor]:
    """torch's own gradient, by .backward()."""
    for parameter in model.parameters():
        parameter.grad = None
    objective.backward()
    return grads(model)


def relative(found: list[Tensor], wanted: list[Tensor]) -> float:
    """Largest difference over all tensors, relative to the largest entry wanted."""
    assert len(found) == len(wanted) > 0
    scale = max(float(w.detach().abs().max()) for w in wanted)
    return max(float((f - w).detach().abs().max()) for f, w in zip(found, wanted, strict=True)) / scale


class Count(torch.autograd.Function):
    """x W^T that counts its evaluations, input gradients and weight gradients."""

    @staticmethod
    def forward(ctx, x, weight, tally):
        ctx.save_for_backward(x, weight)
        ctx.tally = tally
        tally["forward"] += 1
        return x @ weight.T

    @staticmethod
    def backward(ctx, pull):
        x, weight = ctx.saved_tensors
        ctx.tally["input"] += ctx.needs_input_grad[0]
        ctx.tally["weight"] += ctx.needs_input_grad[1]
        return pull @ weight, pull.T @ x, None


class CountingStage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4) / 2)
        self.tally = {"forward": 0, "input": 0, "weight": 0}

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(Count.apply(x, self.weight, self.tally))
