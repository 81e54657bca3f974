"""The contract of a floor: a trivial reader that every result is held against."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from tasks.task import Split, TaskData


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


def one_class(data: TaskData) -> str | None:
    """A reason for floors that need two classes to tell apart."""
    return "all training labels are equal" if len(np.unique(data.train.labels)) < 2 else None
