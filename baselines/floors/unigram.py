"""What a reader gets who knows how frequent each symbol is and nothing of what came before."""

from __future__ import annotations

from typing import Self

import numpy as np

from baselines import FLOORS
from baselines.floor import TextFloor
from tasks.language import stream
from tasks.task import Split, TaskData


@FLOORS.register("unigram")
class Unigram(TextFloor):
    """p(w) = (c(w) + 1) / (N + V): relative frequencies in the training text, one added to each (Laplace)."""

    def fit(self, data: TaskData) -> Self:
        counts = np.bincount(stream(data.train), minlength=data.output.size) + 1.0
        counts[data.input.pad] = 0
        self.logs = np.log(np.maximum(counts, 1e-300) / counts.sum())
        return self

    def log_likelihood(self, split: Split) -> float:
        return float(self.logs[stream(split)[1:]].sum())
