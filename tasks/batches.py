"""Rows into batches: padding, and an order of batches that is a pure function of (seed, i)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from neurons.specs import Batch, InputSpec
from tasks.task import Split

WINDOW = 50  # batches that are sorted by length together: little padding, yet a different mix every epoch


def collate(split: Split, indices: Sequence[int] | np.ndarray, input: InputSpec) -> Batch:
    """The rows ``indices`` of ``split`` as one Batch: tokens (B, T) int64 padded on the right to the longest row with
    mask (B, T), or features (B, T, F) float32 without mask; pairs have an axis of two behind the first."""
    chosen = np.asarray(indices)
    y = torch.from_numpy(split.labels[chosen])
    if input.kind == "features":
        return Batch(torch.from_numpy(np.asarray(split.inputs)[chosen]), y)
    return _padded(_Flat([split.inputs[i] for i in chosen], input), np.arange(len(chosen)), y)


class BatchStream:
    """Endless training batches of ``split``; ``batch(i)`` depends on nothing but (seed, i).

    Each epoch visits every row once, in ``steps_per_epoch`` batches. The rows of epoch e are permuted by (seed, e),
    sorted by length inside windows of 50 batches so that little is padded, and the batches then shuffled. One batch of
    an epoch, wherever the shuffle puts it, holds what is left over.
    """

    def __init__(self, split: Split, input: InputSpec, *, batch_size: int, seed: int) -> None:
        self.split, self.input, self.batch_size, self.seed = split, input, batch_size, seed
        self.steps_per_epoch = -(-len(split) // batch_size)
        self._flat = _Flat(split.inputs, input) if input.kind == "tokens" else None
        self._plan: tuple[int, list[np.ndarray]] = (-1, [])

    def indices(self, i: int) -> np.ndarray:
        """The rows of batch ``i``."""
        epoch, step = divmod(i, self.steps_per_epoch)
        if self._plan[0] != epoch:
            self._plan = (epoch, self._epoch(epoch))
        return self._plan[1][step]

    def batch(self, i: int) -> Batch:
        """Batch ``i``, counted from 0 across epochs."""
        chosen = self.indices(i)
        if self._flat is None:
            return collate(self.split, chosen, self.input)
        return _padded(self._flat, chosen, torch.from_numpy(self.split.labels[chosen]))

    def _epoch(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(len(self.split))
        if self._flat is not None:
            window = WINDOW * self.batch_size
            parts = [order[start : start + window] for start in range(0, len(order), window)]
            order = np.concatenate([part[np.argsort(self._flat.lengths[part], kind="stable")] for part in parts])
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        return [batches[place] for place in rng.permutation(len(batches))]


def evaluation_batches(split: Split, input: InputSpec, batch_size: int) -> Iterator[tuple[np.ndarray, Batch]]:
    """Every row of ``split`` once, shortest first: (indices, Batch) pairs."""
    flat = _Flat(split.inputs, input) if input.kind == "tokens" else None
    order = np.arange(len(split)) if flat is None else np.argsort(flat.lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        if flat is None:
            yield chosen, collate(split, chosen, input)
        else:
            yield chosen, _padded(flat, chosen, torch.from_numpy(split.labels[chosen]))


class _Flat:
    """Ragged rows in one buffer, so that a batch is one gather instead of a loop over its rows.

    ``sequences`` (n, 1), or (n, 2) of pairs, numbers the sequences of each row; ``lengths`` (n,) is of the longest.
    """

    def __init__(self, rows: Sequence[np.ndarray] | np.ndarray, input: InputSpec) -> None:
        self.pad, self.pair = input.pad, input.pair
        if input.pair:
            rows = [sequence[sequence != input.pad] for row in rows for sequence in row]
        self.each = np.array([len(row) for row in rows], dtype=np.int64)
        self.starts = np.cumsum(self.each) - self.each
        self.values = np.concatenate(list(rows))
        self.sequences = np.arange(len(rows)).reshape(-1, 2 if input.pair else 1)
        self.lengths = self.each[self.sequences].max(1)


def _padded(flat: _Flat, chosen: np.ndarray, y: torch.Tensor) -> Batch:
    which = flat.sequences[chosen] if flat.pair else chosen
    lengths = flat.each[which]
    places = np.arange(lengths.max())
    mask = places < lengths[..., None]
    x = flat.values[np.where(mask, flat.starts[which][..., None] + places, 0)].astype(np.int64)
    x[~mask] = flat.pad
    return Batch(torch.from_numpy(x), y, torch.from_numpy(mask))
