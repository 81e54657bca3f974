"""The contract of a task: it yields real splits with their provenance, and never owns a model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from neurons.errors import UsageError
from neurons.specs import IGNORE, InputSpec, OutputSpec
from tasks.data import Source
from tasks.metrics import TextCounts, accuracy, chance


@dataclass(frozen=True)
class Split:
    """``inputs``: n ragged int arrays (tokens) or one (n, T, F) float32 array (features); ``labels``: (n,) int64, or
    (n, T) targets with IGNORE.

    ``texts``: the raw strings where there are any, for readers that make their own features (NB-SVM). ``counts``: of
    running text, what its targets spell.
    """

    inputs: Sequence[np.ndarray] | np.ndarray
    labels: np.ndarray
    texts: Sequence[str] | None = None
    counts: TextCounts | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def digest(self) -> str:
        """sha256 over inputs and labels in order."""
        sha = hashlib.sha256()
        for row in self.inputs:
            sha.update(np.ascontiguousarray(row).tobytes())
            sha.update(b"|")
        sha.update(np.ascontiguousarray(self.labels, dtype=np.int64).tobytes())
        return sha.hexdigest()


@dataclass(frozen=True)
class TaskData:
    """Loaded splits. ``held_out`` selects; ``test`` is touched once, at the end."""

    train: Split
    held_out: Split
    test: Split
    input: InputSpec
    output: OutputSpec
    source: str
    protocol: str

    @property
    def split_hash(self) -> str:
        """16 hex digits over the three splits."""
        joined = "".join(split.digest() for split in (self.train, self.held_out, self.test))
        return hashlib.sha256(joined.encode()).hexdigest()[:16]


def check_share(name: str, value: float) -> None:
    """UsageError unless ``value`` is a share of the data, above 0 and below 1."""
    if not 0 < value < 1:
        raise UsageError(f"task.{name} is a share of the data between 0 and 1, not {value}. Try: task.{name}=0.1")


def check_sizes(train: int, held_out: int, test: int, seed: int) -> None:
    """UsageError unless every split has a row and ``seed`` is one: a negative size would cut one split from another."""
    for name, value, least in (("train", train, 1), ("held_out", held_out, 1), ("test", test, 1), ("seed", seed, 0)):
        if value < least:
            raise UsageError(f"task.{name} is {least} or more, not {value}")


class Task:
    """Base of every task. The constructor's options are the protocol; ``load`` finds or generates the data.

    ``data``: the data set that ``load`` needs, None where it is generated or comes with a dependency.
    ``disjoint``: the protocol promises that no input is in two splits. ``by_likelihood``: what is measured is how
    likely the targets are, not which answer is right.
    """

    name: ClassVar[str]
    primary: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True
    by_likelihood: ClassVar[bool] = False
    floors: ClassVar[tuple[str, ...]] = ("majority",)
    data: ClassVar[Source | None] = None
    disjoint: ClassVar[bool] = True

    def load(self, data_dir: str | None = None) -> TaskData:
        """Splits from a local folder, the hub or a generator; DataError naming the three ways when none serves."""
        raise NotImplementedError("abstract: a task defines load(data_dir)")

    def score(
        self, split: Split, *, predicted: np.ndarray | None = None, nats: float | None = None
    ) -> dict[str, float]:
        """Metrics of a reader of ``split``, ``primary`` among them: from its answers in the shape of ``split.labels``,
        or from the negative log-likelihood, summed, that it gives to the targets."""
        if predicted is None:
            raise ValueError(f"'{self.primary}' is measured on predictions")
        return {"accuracy": accuracy(predicted, split.labels)}

    def chance(self, data: TaskData) -> tuple[float, str]:
        """What a reader who learned nothing reaches on the test split, within the luck of its size, and who that is."""
        targets = data.test.labels[data.test.labels != IGNORE]
        level = chance(data.train.labels, targets)
        return level + 1.96 * float(
            np.sqrt(level * (1 - level) / len(targets))
        ), f"{level:.3f} for the most frequent label"
