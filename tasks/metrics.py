"""What is measured on predictions."""

from __future__ import annotations

import numpy as np

from neurons.specs import IGNORE


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Share of ``predicted`` class numbers that equal ``labels``, of one shape, (n,) or (n, T); places that the labels
    mark IGNORE do not count."""
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    counted = labels != IGNORE
    if predicted.shape != labels.shape or not counted.any():
        raise ValueError(f"accuracy of {len(predicted)} predictions for {len(labels)} labels is undefined")
    return float(np.mean(predicted[counted] == labels[counted]))


def chance(train_labels: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy on ``labels`` of always answering the most frequent of ``train_labels``: nothing was learned."""
    train_labels, labels = np.asarray(train_labels), np.asarray(labels)
    most = np.bincount(train_labels[train_labels != IGNORE]).argmax()
    return float(np.mean(labels[labels != IGNORE] == most))
