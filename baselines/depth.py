"""Accuracy on ListOps by the depth of the trees: where a reader stops following the brackets."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from neurons.errors import UsageError
from tasks.suites.listops import OPERATORS, SYMBOLS
from tasks.task import Split

_FIRST_OPERATOR, _CLOSE = SYMBOLS.index(OPERATORS[0]) + 1, SYMBOLS.index("]") + 1  # ids


class DepthRow(NamedTuple):
    """``accuracy`` over the ``samples`` whose trees nest ``depth`` operators."""

    depth: int
    samples: int
    accuracy: float


def depths(split: Split) -> np.ndarray:
    """(n,) operators on the longest path of each tree from the root down; a lone digit has 0."""
    found = np.empty(len(split), np.int64)
    for row, sample in enumerate(split.inputs):
        ids = np.asarray(sample)
        steps = ((ids >= _FIRST_OPERATOR) & (ids < _CLOSE)).astype(np.int64) - (ids == _CLOSE)
        found[row] = np.cumsum(steps).max()
    return found


def accuracy_by_depth(predicted: np.ndarray, split: Split) -> list[DepthRow]:
    """A row for each depth that occurs in ``split``, least first. ``predicted``: (n,) labels, in the split's order."""
    if np.shape(predicted) != split.labels.shape:
        raise UsageError(
            f"{np.shape(predicted)} predictions for labels of {split.labels.shape}: give the whole split's"
        )
    depth, right = depths(split), np.asarray(predicted) == split.labels
    return [
        DepthRow(int(one), int((depth == one).sum()), float(right[depth == one].mean())) for one in np.unique(depth)
    ]
