"""One mean per class."""

from __future__ import annotations

from typing import Self

import numpy as np

from baselines import FLOORS
from baselines.floor import Floor
from tasks.task import Split, TaskData


@FLOORS.register("nearest-prototype")
class NearestPrototype(Floor):
    """argmin_c ||x - mean of class c||, Euclidean, over flattened features. Source: the nearest-mean classifier."""

    def fits(self, data: TaskData) -> str | None:
        if data.input.kind != "features":
            return "floor 'nearest-prototype' reads features, not tokens"
        return super().fits(data)

    def fit(self, data: TaskData) -> Self:
        x = _rows(data.train)
        self.classes = np.unique(data.train.labels)
        self.means = np.stack([x[data.train.labels == label].mean(axis=0) for label in self.classes])
        return self

    def predict(self, split: Split) -> np.ndarray:
        # ||x - m||^2 without ||x||^2, which does not change the argmin; an (n, classes, features) array would not fit.
        score = (self.means**2).sum(axis=1) - 2 * _rows(split) @ self.means.T
        return self.classes[score.argmin(axis=1)]


def _rows(split: Split) -> np.ndarray:
    return np.asarray(split.inputs, dtype=np.float64).reshape(len(split), -1)
