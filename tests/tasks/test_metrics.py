"""Metrics against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score

from tasks.metrics import accuracy, chance


def test_against_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    train, labels, predicted = (rng.choice(4, size, p=[0.1, 0.2, 0.6, 0.1]) for size in (300, 100, 100))
    assert accuracy(predicted, labels) == pytest.approx(accuracy_score(labels, predicted))
    dummy = DummyClassifier(strategy="most_frequent").fit(train[:, None], train)
    assert chance(train, labels) == pytest.approx(dummy.score(labels[:, None], labels))


@pytest.mark.parametrize(("predicted", "labels"), [([], []), ([1, 2], [1])])
def test_no_number_without_pairs(predicted: list[int], labels: list[int]) -> None:
    with pytest.raises(ValueError, match="undefined"):
        accuracy(np.array(predicted), np.array(labels))
