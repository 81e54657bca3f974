"""Sparse distributed representations: few active bits of many, kept as indices (40 int16 of 2048 are 80 bytes).

A set is a row of int16 indices, ascending; where the sets of a batch differ in size, -1 fills the end. Two random sets
hardly ever share many bits, so an overlap above a threshold is a match that survives the loss of half of the bits.
Sources: Ahmad & Hawkins 2016 (1601.00720); Ahmad & Scheinkman 2019 (1903.11257, boosting).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurons.errors import UsageError

EMPTY = -1


def union(a: Any, b: Any) -> Tensor:
    """Bits of either set: (..., n) and (..., m) -> (..., up to n + m)."""
    a, b = _sets(a, b)
    return _packed(torch.cat([a, b.masked_fill(_shared(b, a), EMPTY)], -1))


def intersection(a: Any, b: Any) -> Tensor:
    """Bits of both sets: (..., n) and (..., m) -> (..., up to n)."""
    a, b = _sets(a, b)
    return _packed(a.masked_fill(~_shared(a, b), EMPTY))


def overlap(a: Any, b: Any) -> Tensor:
    """Number of shared bits, int64 (...); the leading shapes broadcast."""
    a, b = _sets(a, b)
    return _shared(a, b).sum(-1)


def distance(a: Any, b: Any) -> Tensor:
    """Hamming distance, the number of bits that differ, int64 (...)."""
    a, b = _sets(a, b)
    return (a >= 0).sum(-1) + (b >= 0).sum(-1) - 2 * _shared(a, b).sum(-1)


def threshold(scores: Any, active: int = 40) -> Tensor:
    """The ``active`` highest of dense scores (..., size) as a set (..., active)."""
    scores = torch.as_tensor(scores)
    if not 1 <= active <= scores.shape[-1] <= 2**15:
        raise UsageError(f"an SDR has 1 to size active bits and at most 32768, not {active} of {scores.shape[-1]}")
    return scores.topk(active, -1, sorted=False).indices.sort(-1).values.to(torch.int16)


def to_dense(index: Tensor, size: int) -> Tensor:
    """Bool (..., size), True at the active bits."""
    counts = torch.zeros(*index.shape[:-1], size + 1, dtype=torch.bool, device=index.device)
    return counts.scatter(-1, index.long().masked_fill(index < 0, size), True)[..., :size]


def false_match_rate(size: int, active: int, theta: int) -> float:
    """Chance that a random set shares ``theta`` or more bits with a given one of as many: a hypergeometric tail."""
    total = math.comb(size, active)
    found = sum(math.comb(active, b) * math.comb(size - active, active - b) for b in range(theta, active + 1))
    return found / total


def chosen(scores: Tensor, index: Tensor) -> Tensor:
    """Scores (..., size) at the bits ``index`` (..., active); for backward only the bits are kept, not the scores."""
    found: Tensor = _Chosen.apply(scores, index)
    return found


class _Chosen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.size = scores.shape[-1]
        return scores.gather(-1, index.long())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return grad.new_zeros(*grad.shape[:-1], ctx.size).scatter_(-1, index.long(), grad), None


class SDRLinear(nn.Module):
    """A linear map of a set: the sum of the rows of its bits, (..., active) -> (..., width), without the dense vector.

    ``weights`` (..., active) grade the bits and carry the gradient to whoever chose them. Sets here have no gaps.
    Parameters: size * width, of which a token touches active * width.
    """

    def __init__(self, size: int, width: int, *, active: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, width) * active**-0.5)

    def forward(self, index: Tensor, weights: Tensor | None = None) -> Tensor:
        rows = index.reshape(-1, index.shape[-1]).long()
        graded = None if weights is None else weights.reshape(rows.shape).to(self.weight.dtype)
        found = F.embedding_bag(rows, self.weight, per_sample_weights=graded, mode="sum")
        return found.view(*index.shape[:-1], -1)


class Boosting(nn.Module):
    """Keeps all bits in use: seldom active ones gain ``strength (1 - duty / target)`` in the choice of the active.

    Added, not multiplied: a factor would push a negative score the wrong way. The duty cycle is a running mean over
    the last batches in training mode, and changes in ``end_episode`` only.
    """

    duty: Tensor
    last: Tensor

    def __init__(self, size: int, *, active: int, strength: float = 1.0, momentum: float = 0.05) -> None:
        super().__init__()
        self.target, self.strength, self.momentum = active / size, strength, momentum
        self.register_buffer("duty", torch.full((size,), self.target))
        self.register_buffer("last", torch.full((size,), self.target), persistent=False)

    def forward(self, scores: Tensor) -> Tensor:
        return scores + self.strength * (1 - self.duty / self.target)

    @torch.no_grad()
    def observe(self, index: Tensor, mask: Tensor | None) -> None:
        """index (B, T, active) of a batch, mask (B, T); what it does to the duty cycle waits for ``end_episode``."""
        if self.training:
            real = index.flatten(0, 1) if mask is None else index[mask]
            counts = torch.bincount(real.flatten().long(), minlength=len(self.duty)).to(self.duty)
            self.last = counts / max(1, len(real))

    @torch.no_grad()
    def end_episode(self) -> None:
        self.duty += self.momentum * (self.last - self.duty)


def _sets(*sets: Any) -> list[Tensor]:
    found = [torch.as_tensor(part) for part in sets]
    if any(part.is_floating_point() or part.dtype == torch.bool for part in found):
        raise UsageError("an SDR is a row of indices, not a dense vector. Try: sdr.threshold(scores, active)")
    return [part.to(torch.int16) for part in found]


def _shared(a: Tensor, b: Tensor) -> Tensor:
    """Which bits of a (..., n) are in b too."""
    return (a[..., :, None] == b[..., None, :]).any(-1) & (a >= 0)


def _packed(index: Tensor) -> Tensor:
    """Ascending, the gaps at the end, as many columns as the largest set has."""
    last = torch.iinfo(torch.int16).max
    ordered = index.int().masked_fill(index < 0, last + 1).sort(-1).values
    count = int((ordered <= last).sum(-1).max()) if ordered.numel() else 0
    return ordered.masked_fill(ordered > last, EMPTY)[..., :count].to(torch.int16)
