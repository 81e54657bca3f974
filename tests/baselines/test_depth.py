"""Accuracy by depth against trees nested by hand and a reader that is exact to one level."""

from __future__ import annotations

import numpy as np
import pytest

from baselines import FLOORS
from baselines.depth import accuracy_by_depth, depths
from neurons.errors import UsageError
from tasks import TASKS
from tasks.suites.listops import SYMBOLS
from tasks.task import Split


def split(*expressions: str, labels: list[int]) -> Split:
    return Split([np.array([SYMBOLS.index(s) + 1 for s in text.split()]) for text in expressions], np.array(labels))


def test_depth_counts_nested_operators() -> None:
    trees = split(
        "7", "[SM 1 2 ]", "[MAX [MIN 1 2 ] [MED 3 [SM 4 4 ] ] 5 ]", "[MAX [MIN 1 ] [MIN 2 ] ]", labels=[0] * 4
    )
    assert depths(trees).tolist() == [0, 1, 3, 2]


def test_rows_hold_the_counts_and_shares_of_each_depth() -> None:
    trees = split("[SM 1 2 ]", "[SM 1 [MIN 2 ] ]", "[SM 2 2 ]", "[SM 4 4 ]", labels=[3, 3, 4, 8])
    rows = accuracy_by_depth(np.array([3, 9, 4, 0]), trees)
    assert rows == [(1, 3, pytest.approx(2 / 3)), (2, 1, 0.0)]
    with pytest.raises(UsageError, match="predictions"):
        accuracy_by_depth(np.zeros(3), trees)


def test_a_reader_of_one_level_is_right_at_depth_1_and_falls_behind_below() -> None:
    data = TASKS.build("listops-short", train=800, held_out=10, test=800).load()
    floor = FLOORS.build("depth-1-reader").fit(data)
    rows = accuracy_by_depth(floor.predict(data.test), data.test)
    assert sum(row.samples for row in rows) == 800
    assert rows[-1].depth <= 4  # five levels of nodes, the deepest digits
    assert all(row.accuracy == 1 for row in rows if row.depth <= 1)
    assert rows[-1].accuracy < 0.9
