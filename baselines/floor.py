"""The contract of a floor: a trivial reader that every result is held against."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from tasks.language import TextData
from tasks.task import Split, Task, TaskData


class Floor:
    """Base of every floor. ``fit`` reads ``data.train``, selects on ``data.held_out`` and never sees the test."""

    name: ClassVar[str]

    def fits(self, data: TaskData) -> str | None:
        """None, or the reason why this floor cannot read ``data``."""
        if data.output.kind != "label":
            return f"floor '{self.name}' predicts labels, not '{data.output.kind}'"
        return None

    def fit(self, data: TaskData) -> Self:
        raise NotImplementedError("abstract: a floor defines fit(data)")

    def predict(self, split: Split) -> np.ndarray:
        """int64 labels (n,), or tokens (n, T), in the shape of ``split.labels``, which it does not read."""
        raise NotImplementedError("abstract: a floor defines predict(split)")

    def log_likelihood(self, split: Split) -> float:
        """The logarithm of the probability of all targets of ``split``, in nats, each given what stands before it."""
        raise NotImplementedError("abstract: a floor of a task that is measured by likelihood defines it")

    def score(self, task: Task, split: Split) -> float:
        """The primary metric of ``task`` on ``split``."""
        if task.by_likelihood:
            return task.score(split, nats=-self.log_likelihood(split))[task.primary]
        return task.score(split, predicted=self.predict(split))[task.primary]


class TextFloor(Floor):
    """Base of the floors that read running text as one stream, across the borders of its windows."""

    def fits(self, data: TaskData) -> str | None:
        if not isinstance(data, TextData):
            return f"floor '{self.name}' reads running text, and this data is none"
        return None


def one_class(data: TaskData) -> str | None:
    """A reason for floors that need two classes to tell apart."""
    return "all training labels are equal" if len(np.unique(data.train.labels)) < 2 else None
