"""Multi-token prediction: besides the next token, the ones after it, as a training signal only."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurons.errors import UsageError
from neurons.manifold.recompute import recomputed
from neurons.readouts import TokenReadout
from neurons.specs import IGNORE, Batch, Loss


def shifted_targets(y: Tensor, ahead: int) -> Tensor:
    """Targets of the head that looks ``ahead`` tokens beyond the next: y (B, T) moved left, IGNORE at its end."""
    if ahead == 0:
        return y
    return torch.cat([y[:, ahead:], y.new_full((y.shape[0], min(ahead, y.shape[1])), IGNORE)], 1)


class MultiTokenReadout(TokenReadout):
    """A TokenReadout with ``n_predict - 1`` further heads: (B, T, D) -> logits of the next token (B, T, V).

    Head k = 2 .. n predicts the k-th token from ``x + W_k silu(norm(x))`` through the same unembedding; its targets are
    ``y`` shifted by k - 1. The objective is the next token's cross-entropy plus ``weight`` times the heads', each
    scaled to the number of next-token targets; ``reported`` is the next token's alone, and the logits are too.
    The heads go one after the other, each computed again in backward in slices: logits of one slice exist at a time.

    Parameters: those of TokenReadout and (n - 1) (D^2 + D). Source: Gloeckle et al. 2024 (2404.19737).
    """

    def __init__(
        self, *, width: int, vocabulary: int, n_predict: int = 4, weight: float = 0.3, chunk: int = 4096
    ) -> None:
        super().__init__(width=width, vocabulary=vocabulary, chunk=chunk)
        if n_predict < 2 or weight <= 0:
            raise UsageError(
                f"multi-token prediction needs n_predict >= 2 and weight > 0, not {n_predict} and {weight}. "
                "Try: n_predict=4"
            )
        self.n_predict, self.weight = n_predict, weight
        self.heads = nn.ModuleList([nn.Linear(width, width) for _ in range(n_predict - 1)])
        for head in self.heads:
            nn.init.normal_(head.weight, std=0.02)  # type: ignore[arg-type]
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    def loss(self, x: Tensor, batch: Batch) -> Loss:
        first = super().loss(x, batch)
        y = batch.y if batch.mask is None else batch.y.masked_fill(~batch.mask, IGNORE)
        objective = first.objective
        for ahead, head in enumerate(self.heads, start=1):
            target = shifted_targets(y, ahead)
            counted = target != IGNORE
            rows, wanted = x[counted], target[counted]
            if not len(wanted):
                continue
            scale = self.weight * first.count / len(wanted)
            for some, goal in zip(rows.split(self.chunk), wanted.split(self.chunk), strict=True):
                objective = objective + scale * recomputed(self._further(head), some, goal)
        return Loss(objective, first.reported, first.count)

    def _further(self, head: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        def total(rows: Tensor, wanted: Tensor) -> Tensor:
            hidden = rows + head(F.silu(self.norm(rows)))
            logits = self.linear(self.norm(hidden))
            return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), wanted, reduction="sum")

        return total
