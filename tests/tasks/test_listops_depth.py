"""Accuracy by depth against trees nested by hand and a reader that is exact to two levels."""

from __future__ import annotations

import numpy as np
import pytest

from baselines import FLOORS
from tasks import TASKS
from tasks.suites.listops import FEWEST, SYMBOLS, depths
from tasks.task import Split


def split(*expressions: str, labels: list[int]) -> Split:
    return Split([np.array([SYMBOLS.index(s) + 1 for s in text.split()]) for text in expressions], np.array(labels))


def test_depth_counts_nested_operators() -> None:
    trees = split(
        "7", "[SM 1 2 ]", "[MAX [MIN 1 2 ] [MED 3 [SM 4 4 ] ] 5 ]", "[MAX [MIN 1 ] [MIN 2 ] ]", labels=[0] * 4
    )
    assert depths(trees).tolist() == [0, 1, 3, 2]


def test_each_depth_has_its_share_and_one_of_few_samples_has_none() -> None:
    kinds = [("[SM 1 2 ]", 3, FEWEST), ("[SM 1 [MIN 2 ] ]", 3, FEWEST), ("[SM 1 [MIN [MAX 2 ] ] ]", 3, FEWEST - 1)]
    trees = split(
        *(text for text, _, count in kinds for _ in range(count)),
        labels=[value for _, value, count in kinds for _ in range(count)],
    )
    answers = np.full(len(trees), 3)
    answers[:5] = 4  # of depth 1
    answers[FEWEST : FEWEST + 10] = 4  # of depth 2
    found = TASKS.build("listops-short").score(trees, predicted=answers)
    right = len(trees) - 15
    assert found == {
        "accuracy": pytest.approx(right / len(trees)),
        "depth_1_accuracy": pytest.approx(1 - 5 / FEWEST),
        "depth_2_accuracy": pytest.approx(1 - 10 / FEWEST),
    }


def test_a_reader_of_two_levels_is_right_down_to_depth_2_and_falls_behind_below() -> None:
    task = TASKS.build("listops-short", train=800, held_out=10, test=800)
    data = task.load()
    floor = FLOORS.build("depth-2-reader").fit(data)
    found = task.score(data.test, predicted=floor.predict(data.test))
    assert list(found) == ["accuracy", "depth_2_accuracy", "depth_3_accuracy", "depth_4_accuracy"]
    assert found["depth_2_accuracy"] == 1
    assert found["depth_4_accuracy"] < found["depth_3_accuracy"] < 1
    assert depths(data.test).max() == 4  # five levels of nodes, the deepest digits
