"""Karmarkar-Karp against brute force and the differencing of plain numbers."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

from neurons.errors import UsageError
from neurons.manifold.partition import karmarkar_karp


def spread(weights: Sequence[float], lists: list[list[int]]) -> float:
    sums = [sum(weights[i] for i in part) for part in lists]
    return max(sums) - min(sums)


def optimum(weights: Sequence[float], parts: int) -> float:
    found = []
    for assignment in itertools.product(range(parts), repeat=len(weights) - 1):
        sums = [0.0] * parts
        sums[0] = weights[0]
        for weight, part in zip(weights[1:], assignment, strict=True):
            sums[part] += weight
        found.append(max(sums) - min(sums))
    return min(found)


def differencing(weights: Sequence[float]) -> float:
    left = sorted(weights)
    while len(left) > 1:
        first, second = left.pop(), left.pop()
        left = sorted([*left, first - second])
    return left[0]


def test_the_textbook() -> None:
    assert spread([8, 7, 6, 5, 4], karmarkar_karp([8, 7, 6, 5, 4], 2)) == 2
    assert sorted(map(len, karmarkar_karp([5, 5, 4, 3, 3], 2))) == [2, 3]
    assert spread([5, 5, 4, 3, 3], karmarkar_karp([5, 5, 4, 3, 3], 2)) == 2
    assert optimum([5, 5, 4, 3, 3], 2) == 0


@pytest.mark.parametrize("n", [1, 2, 5, 16, 33])
def test_two_parts_leave_what_differencing_leaves(n: int) -> None:
    draw = random.Random(n)
    for _ in range(20):
        weights = [draw.random() for _ in range(n)]
        lists = karmarkar_karp(weights, 2)
        assert sorted(itertools.chain(*lists)) == list(range(n))
        assert spread(weights, lists) == pytest.approx(differencing(weights), abs=1e-12)


@pytest.mark.parametrize(("n", "parts", "factor"), [(4, 2, 1.0), (12, 2, 40.0), (16, 2, 200.0), (8, 3, 8.0)])
def test_never_better_than_brute_force_nor_far_off(n: int, parts: int, factor: float) -> None:
    draw, ratios = random.Random(7), []
    for _ in range(8 if n < 16 else 3):
        weights = [draw.random() for _ in range(n)]
        best, found = optimum(weights, parts), spread(weights, karmarkar_karp(weights, parts))
        assert found >= best - 1e-12
        ratios.append(found / max(best, 1e-12))
    assert sorted(ratios)[len(ratios) // 2] <= factor * (1 + 1e-9)


def test_mean_difference_at_32_is_far_below_dealing_out() -> None:
    draw, found, dealt = random.Random(0), [], []
    for _ in range(200):
        weights = [draw.random() for _ in range(32)]
        found.append(spread(weights, karmarkar_karp(weights, 2)))
        order = sorted(range(32), key=lambda i: -weights[i])
        abba = [[i for place, i in enumerate(order) if (place % 4 in (0, 3)) == side] for side in (True, False)]
        dealt.append(spread(weights, abba))
    assert sum(found) / 200 < 5e-4
    assert sum(dealt) / 200 > 0.05


def test_many_parts_are_balanced() -> None:
    draw = random.Random(1)
    weights = [draw.random() for _ in range(400)]
    lists = karmarkar_karp(weights, 7)
    assert sorted(itertools.chain(*lists)) == list(range(400))
    assert spread(weights, lists) < 0.01


def test_edges_and_errors() -> None:
    assert karmarkar_karp([], 3) == [[], [], []]
    assert sorted(karmarkar_karp([2.0, 1.0], 3)) == [[], [0], [1]]
    assert karmarkar_karp([3, 1, 2], 1) == [[0, 1, 2]]
    with pytest.raises(UsageError, match="1 part or more"):
        karmarkar_karp([1.0], 0)
    with pytest.raises(UsageError, match="finite and >= 0"):
        karmarkar_karp([1.0, -1.0], 2)
