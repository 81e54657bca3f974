"""Few-shot episodes: a few pictures of classes never met before, then new pictures of the same classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neurons.errors import UsageError


@dataclass(frozen=True, eq=False)
class Episode:
    """``support`` (way shot, H, W) with ``classes`` (way shot,) 0..way-1, shot by shot; ``query`` (m, H, W) whose
    ``answers`` (m,) are only compared with. Levels in [0, 1], ink is high."""

    support: np.ndarray
    classes: np.ndarray
    query: np.ndarray
    answers: np.ndarray

    @property
    def way(self) -> int:
        return int(self.classes.max()) + 1


@dataclass(frozen=True)
class Pool:
    """Pictures (n, H, W) to draw episodes from, and the class of each, (n,)."""

    name: str
    pictures: np.ndarray
    labels: np.ndarray
    source: str

    def draw(self, *, way: int, shot: int, queries: int, seed: int) -> Episode:
        """``way`` classes, ``shot`` pictures of each to learn from and ``queries`` others to ask, all at random.

        UsageError if the pool has too few classes, or pictures of one.
        """
        known, counts = np.unique(self.labels, return_counts=True)
        if way < 2 or shot < 1 or queries < 1:
            raise UsageError(f"an episode has 2 classes, 1 shot and 1 query at least, not {way}, {shot} and {queries}")
        if way > len(known):
            raise UsageError(f"{self.name} has {len(known)} classes: {way}-way cannot be. Try: --way {len(known)}")
        if shot + queries > counts.min():
            have = f"{self.name} has {counts.min()} pictures of some class"
            raise UsageError(f"{have}: {shot} to learn from and {queries} to ask are too many. Try: --shot 1")
        rng = np.random.default_rng(seed)
        chosen = rng.permutation(known)[:way]
        rows = np.stack([rng.permutation(np.flatnonzero(self.labels == label))[: shot + queries] for label in chosen])
        support, query = rows[:, :shot].T.ravel(), rows[:, shot:].T.ravel()
        names = np.arange(way)
        return Episode(
            self.pictures[support], np.tile(names, shot), self.pictures[query], np.tile(names, queries)
        )  # fmt: skip


def digits() -> Pool:
    """scikit-learn's 1,797 handwritten digits of 8 x 8: 10 classes, no download."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return Pool("digits", (found.images / 16.0).astype(np.float32), found.target.astype(np.int64), "scikit-learn")
