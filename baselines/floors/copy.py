"""What a reader gets who repeats what stood a fixed number of steps back."""

from __future__ import annotations

from typing import Self

import numpy as np

from baselines import FLOORS
from baselines.floor import Floor
from neurons.specs import IGNORE
from tasks.task import Split, TaskData


@FLOORS.register("copy")
class Copy(Floor):
    """At every step the symbol ``distance`` steps before it (the first symbol where none stands so far back), with the
    distance, 0 and up, that is most often right on the training targets.

    It knows what has been said but not what is asked. On associative recall of n pairs that is 1 / n where the queries
    come anywhere, and twice as much where they come soon (n = 64, power .01: 3.0 %), since they then come in the order
    of the pairs; the most frequent target of all gets next to nothing.
    """

    def fits(self, data: TaskData) -> str | None:
        if (data.input.kind, data.output.kind) != ("tokens", "token"):
            return f"floor 'copy' turns tokens into tokens, not {data.input.kind} into a {data.output.kind}"
        return None

    def fit(self, data: TaskData) -> Self:
        symbols, targets = _symbols(data.train), data.train.labels
        samples, steps = np.nonzero(targets != IGNORE)
        wanted = targets[samples, steps]
        right = [
            np.count_nonzero(symbols[samples, np.maximum(steps - distance, 0)] == wanted)
            for distance in range(targets.shape[1])
        ]
        self.distance = int(np.argmax(right))
        return self

    def predict(self, split: Split) -> np.ndarray:
        sources = np.maximum(np.arange(split.labels.shape[1]) - self.distance, 0)
        return _symbols(split)[:, sources]


def _symbols(split: Split) -> np.ndarray:
    """(n, T) int64, T of the targets; zeros behind a sample's end."""
    found = np.zeros(split.labels.shape, dtype=np.int64)
    for row, sample in zip(found, split.inputs, strict=True):
        row[: len(sample)] = sample
    return found
