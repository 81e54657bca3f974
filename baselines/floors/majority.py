"""What a reader gets who reads nothing."""

from __future__ import annotations

from typing import Self

import numpy as np

from baselines import FLOORS
from baselines.floor import Floor
from neurons.specs import IGNORE
from tasks.task import Split, TaskData


@FLOORS.register("majority")
class Majority(Floor):
    """The most frequent training label, or training target at any step, always; the smallest of equals."""

    def fits(self, data: TaskData) -> str | None:
        return None

    def fit(self, data: TaskData) -> Self:
        labels = data.train.labels
        self.label = int(np.bincount(labels[labels != IGNORE]).argmax())
        return self

    def predict(self, split: Split) -> np.ndarray:
        return np.full(split.labels.shape, self.label, dtype=np.int64)
