"""Metrics against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score

from neurons.specs import IGNORE
from tasks.metrics import accuracy, chance


def test_against_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    train, labels, predicted = (rng.choice(4, size, p=[0.1, 0.2, 0.6, 0.1]) for size in (300, 100, 100))
    assert accuracy(predicted, labels) == pytest.approx(accuracy_score(labels, predicted))
    dummy = DummyClassifier(strategy="most_frequent").fit(train[:, None], train)
    assert chance(train, labels) == pytest.approx(dummy.score(labels[:, None], labels))


def test_targets_that_do_not_count_are_left_out() -> None:
    labels = np.array([[IGNORE, 3, 1], [2, IGNORE, IGNORE]])
    assert accuracy(np.array([[IGNORE, 3, 0], [2, 5, 7]]), labels) == pytest.approx(2 / 3)
    assert chance(np.array([[3, 3, 1], [IGNORE, IGNORE, IGNORE]]), labels) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("predicted", "labels"), [([], []), ([1, 2], [1]), ([1, 2], [IGNORE, IGNORE])])
def test_no_number_without_pairs(predicted: list[int], labels: list[int]) -> None:
    with pytest.raises(ValueError, match="undefined"):
        accuracy(np.array(predicted), np.array(labels))
