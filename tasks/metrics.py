"""What is measured on predictions."""

from __future__ import annotations

import numpy as np


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Share of ``predicted`` (n,) class numbers that equal ``labels`` (n,)."""
    if len(predicted) != len(labels) or not len(labels):
        raise ValueError(f"accuracy of {len(predicted)} predictions for {len(labels)} labels is undefined")
    return float(np.mean(np.asarray(predicted) == np.asarray(labels)))


def chance(train_labels: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy on ``labels`` of always answering the most frequent of ``train_labels``: nothing was learned."""
    return float(np.mean(np.asarray(labels) == np.bincount(train_labels).argmax()))
