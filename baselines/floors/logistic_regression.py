"""The linear reader: bag of words, or raw features."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from baselines import FLOORS
from baselines.floor import Floor, one_class
from neurons.specs import InputSpec
from tasks.metrics import accuracy
from tasks.task import Split, TaskData

GRID = (0.01, 0.1, 1.0, 10.0)  # inverse strengths C of the L2 penalty


@FLOORS.register("logistic-regression")
class LogisticRegressionFloor(Floor):
    """L2 logistic regression on unigram counts (tokens) or flattened features, each column scaled by its maximum.

    Over bytes that is the bag of bytes. Of a pair of sequences it reads |c1 - c2| of their shares of each symbol.
    C comes from (0.01, 0.1, 1, 10) by accuracy on the held-out split. ``iterations`` bounds L-BFGS: a fit stopped there
    is still a fit, and the held-out split judges it.
    """

    def __init__(self, *, iterations: int = 300) -> None:
        self.iterations = iterations

    def fits(self, data: TaskData) -> str | None:
        return super().fits(data) or one_class(data)

    def fit(self, data: TaskData) -> Self:
        self.input = data.input
        x, held_out = matrix(data.train, data.input), matrix(data.held_out, data.input)
        best = -1.0
        for strength in GRID:
            classifier = make_pipeline(MaxAbsScaler(), LogisticRegression(C=strength, max_iter=self.iterations))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                classifier.fit(x, data.train.labels)
            score = accuracy(classifier.predict(held_out), data.held_out.labels)
            if score > best:
                best, self.strength, self.classifier = score, strength, classifier
        return self

    def predict(self, split: Split) -> np.ndarray:
        return np.asarray(self.classifier.predict(matrix(split, self.input)), dtype=np.int64)


def matrix(split: Split, input: InputSpec) -> Any:
    """(n, size) sparse counts of each symbol, or (n, T F) features."""
    if input.kind == "features":
        return np.asarray(split.inputs, dtype=np.float64).reshape(len(split), -1)
    if input.pair:
        shares = [np.stack([_shares(sequence, input) for sequence in row]) for row in split.inputs]
        return np.abs(np.diff(shares, axis=1))[:, 0]
    # Row by row: the symbols of a hundred thousand long samples in one array would take gigabytes.
    counts = [np.unique(np.asarray(row, dtype=np.int64), return_counts=True) for row in split.inputs]
    starts = np.cumsum([0, *(len(symbols) for symbols, _ in counts)])
    symbols, times = (np.concatenate(column) for column in zip(*counts, strict=True))
    return csr_matrix((times.astype(np.float64), symbols, starts), shape=(len(split), input.size))


def _shares(sequence: np.ndarray, input: InputSpec) -> np.ndarray:
    """(size,) how often each symbol stands in ``sequence``, of 1; padding does not count."""
    counts = np.bincount(sequence[sequence != input.pad], minlength=input.size)
    return counts / max(1, counts.sum())
