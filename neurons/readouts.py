"""Last stages: they turn hidden states into logits and know their loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurons.specs import IGNORE, Batch, Context, Loss, OutputSpec, zero_masked


class LabelReadout(nn.Module):
    """Mean over the real tokens, layer norm, linear: (B, T, D) -> (B, C).

    loss: cross-entropy summed over the batch; count = B.
    """

    def __init__(self, *, width: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, classes)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.linear(self.dropout(self.norm(self.pooled(x, context.mask))))

    def pooled(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The mean over the real tokens, (B, D)."""
        if mask is None:
            return x.mean(1)
        return zero_masked(x, mask).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)

    def loss(self, x: Tensor, batch: Batch) -> Loss:
        logits = self(x, Context(mask=batch.mask))
        total = F.cross_entropy(at_least_float32(logits), batch.y, reduction="sum")
        return Loss(total, total.detach(), len(batch))


class TokenReadout(nn.Module):
    """Layer norm, linear at every step: (B, T, D) -> (B, T, V).

    loss: cross-entropy summed over the targets that are not IGNORE, whose rows alone are read, in slices of ``chunk``
    tokens so that no more than ``chunk`` x V logits exist at a time in the forward pass; count = number of targets.
    """

    def __init__(self, *, width: int, vocabulary: int, chunk: int = 4096) -> None:
        super().__init__()
        self.chunk = chunk
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, vocabulary)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return zero_masked(self.linear(self.norm(x)), context.mask)

    def loss(self, x: Tensor, batch: Batch) -> Loss:
        target = batch.y if batch.mask is None else batch.y.masked_fill(~batch.mask, IGNORE)
        counted = target.flatten() != IGNORE
        target, hidden = target.flatten()[counted], x.flatten(0, 1)[counted]
        total = at_least_float32(hidden.new_zeros(()))
        for rows, wanted in zip(hidden.split(self.chunk), target.split(self.chunk), strict=True):
            logits = at_least_float32(self.linear(self.norm(rows)))
            total = total + F.cross_entropy(logits, wanted, reduction="sum")
        return Loss(total, total.detach(), len(target))


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision as float32; float64 stays, so that exact checks reach through a readout."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def build_readout(output: OutputSpec, *, width: int, dropout: float = 0.0) -> nn.Module:
    """The readout that ``output`` asks for."""
    if output.kind == "token":
        return TokenReadout(width=width, vocabulary=output.size)
    return LabelReadout(width=width, classes=output.size, dropout=dropout)
