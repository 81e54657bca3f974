"""What a reader gets who reads one token."""

from __future__ import annotations

from typing import Self

import numpy as np

from baselines import FLOORS
from baselines.floor import Floor
from tasks.task import Split, TaskData


@FLOORS.register("root-operator")
class RootOperator(Floor):
    """The most frequent training label given the first token, which on ListOps is the root operator.

    About 36 % on the long-range arena's ListOps: where the literature's transformer stands. A first token never seen in
    training gets the majority label.
    """

    def fits(self, data: TaskData) -> str | None:
        if data.input.kind != "tokens":
            return "floor 'root-operator' reads tokens, not features"
        if data.input.pair:
            return "floor 'root-operator' reads one sequence, not pairs"
        return super().fits(data)

    def fit(self, data: TaskData) -> Self:
        counts = np.zeros((data.input.size, data.output.size), dtype=np.int64)
        np.add.at(counts, (_first(data.train), data.train.labels), 1)
        seen = counts.any(axis=1)
        self.answers = np.where(seen, counts.argmax(axis=1), counts.sum(axis=0).argmax())
        return self

    def predict(self, split: Split) -> np.ndarray:
        return self.answers[_first(split)]


def _first(split: Split) -> np.ndarray:
    return np.array([row[0] for row in split.inputs], dtype=np.int64)
