"""What a reader gets who reads nothing."""

from __future__ import annotations

from typing import Self

import numpy as np

from baselines import FLOORS
from baselines.floor import Floor
from tasks.task import Split, TaskData


@FLOORS.register("majority")
class Majority(Floor):
    """The most frequent training label, always; the smallest of equals."""

    def fit(self, data: TaskData) -> Self:
        self.label = int(np.bincount(data.train.labels).argmax())
        return self

    def predict(self, split: Split) -> np.ndarray:
        return np.full(len(split), self.label, dtype=np.int64)
