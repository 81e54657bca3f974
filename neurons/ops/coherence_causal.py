"""Causal coherence attention in O(n): chunks of tokens see a prefix of the mean fields, and each other exactly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from neurons.ops.coherence_parts import Tokens, band, forgetting, pairwise, powers
from neurons.ops.cosine_series import CosineSeries

CHUNK = 64
SEGMENT = 1024  # tokens per call of _segment, a multiple of CHUNK


def causal_sums(segments: Iterable[Tokens], series: CosineSeries, unit: bool, leak: float | None) -> Iterator[Tensor]:
    """``sum_{j <= i} leak^(i - j) k(z_i, z_j) v_j`` for every i, (B, H, N, D + 1) per segment.

    Inside a chunk of CHUNK tokens by the kernel itself; before it through ``S = sum_j features(z_j) v_j^T``, whose
    prefixes over the chunks of a segment are one triangular product, and which is carried from segment to segment.
    """
    ages: _Ages | None = None
    state: Tensor | None = None
    for segment in segments:
        chunks = segment.chunk(CHUNK)
        ages = ages or _ages(chunks.z.shape[2], leak, chunks.v)
        sums, state = _segment(chunks, series, unit, ages, state)
        yield sums.flatten(2, 3)[:, :, : segment.z.shape[2]]


class _Ages(NamedTuple):
    """What the leak leaves of a token at another of its chunk (C, C), at its chunk's end (C, 1), from a chunk's end to
    its rows (C, 1), from chunk to chunk (P + 1, P) and from the segment's start to its chunks (P + 1, 1, 1)."""

    within: Tensor
    to_end: Tensor | None
    from_start: Tensor | None
    across: Tensor
    since: Tensor | None


def _ages(count: int, leak: float | None, like: Tensor) -> _Ages:
    within = band(CHUNK, CHUNK, 0, causal=True, window=None, leak=leak, like=like)
    chunk = torch.arange(count + 1, device=like.device)
    behind = chunk[:, None] - chunk[:-1] - 1
    across = (behind >= 0).to(like.dtype)
    if leak is None:
        return _Ages(within, None, None, across, None)
    row = torch.arange(CHUNK, device=like.device)[:, None]
    across = across * forgetting(leak, CHUNK * behind.clamp_min(0), like)
    since = forgetting(leak, CHUNK * chunk, like)[:, None, None]
    return _Ages(within, forgetting(leak, CHUNK - 1 - row, like), forgetting(leak, row + 1, like), across, since)


def _segment(
    chunks: Tokens, series: CosineSeries, unit: bool, ages: _Ages, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One segment, chunks (B, H, P, C, ...), after a past of ``state`` (B, H, F, D + 1); returns its sums and the new
    state. A state weighs its tokens by their age at the last token of its past."""
    z, v = chunks
    count = z.shape[2]
    features = powers(z, series.order)
    weighted = features * series.weights(features)
    k = pairwise(z, z, series, unit=True) if unit else weighted @ features.transpose(-1, -2)
    near = (k * ages.within) @ v

    if ages.to_end is not None and ages.from_start is not None:
        features, weighted = features * ages.to_end, weighted * ages.from_start
    fields = features.transpose(-1, -2) @ v
    prefix = (ages.across[: count + 1, :count] @ fields.flatten(3)).unflatten(3, fields.shape[3:])  # (B, H, P + 1, ...)
    if state is not None:
        past = state[:, :, None]
        prefix = prefix + (past if ages.since is None else past * ages.since[: count + 1])
    return near + weighted @ prefix[:, :, :-1], prefix[:, :, -1]
