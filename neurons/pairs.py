"""Chains for pairs: two sequences pass through the same stages side by side and are compared at the end."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurons.errors import UsageError
from neurons.readouts import LabelReadout, at_least_float32
from neurons.specs import Batch, Context, Loss


class FoldedPairs(nn.Module):
    """``stage`` over both sequences of each pair: (B, 2, T[, F]) -> (2B, T, D)."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.stage(x.flatten(0, 1), context)


class PairReadout(nn.Module):
    """What two sequences say of each other: (2B, T, D) -> (B, C).

        logits = W gelu(V [x1, x2, x1 * x2, x1 - x2] + b) + c

    x1, x2 (B, D) are what ``readout`` pools of either, normalised; W, c its linear map. Source: the comparison of Long
    Range Arena's Retrieval (Tay et al. 2021). loss: cross-entropy summed over the pairs; count = B.
    """

    def __init__(self, readout: LabelReadout) -> None:
        super().__init__()
        width = readout.linear.in_features
        self.readout = readout
        self.compare = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        pooled = self.readout.norm(self.readout.pooled(x, context.mask))
        first, second = pooled.unflatten(0, (-1, 2)).unbind(1)
        compared = F.gelu(self.compare(torch.cat([first, second, first * second, first - second], -1)))
        return self.readout.linear(self.readout.dropout(compared))

    def loss(self, x: Tensor, batch: Batch) -> Loss:
        mask = None if batch.mask is None else batch.mask.flatten(0, 1)
        logits = self(x, Context(mask=mask))
        total = F.cross_entropy(at_least_float32(logits), batch.y, reduction="sum")
        return Loss(total, total.detach(), len(batch))


def paired(stages: nn.ModuleList) -> nn.ModuleList:
    """``stages`` with a first stage that folds pairs and a readout that unfolds them."""
    *hidden, readout = stages
    if not isinstance(readout, LabelReadout) or not hidden:
        raise UsageError(f"pairs are answered by a label, and {type(readout).__name__} gives none. Try: another model")
    return nn.ModuleList([FoldedPairs(hidden[0]), *hidden[1:], PairReadout(readout)])
