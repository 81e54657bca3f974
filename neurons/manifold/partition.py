"""Balanced partition of numbers by largest differencing."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from neurons.errors import UsageError


def karmarkar_karp(weights: Sequence[float], parts: int) -> list[list[int]]:
    """Indices of ``weights`` in ``parts`` lists whose sums are as equal as differencing makes them.

    Largest differencing method: every number begins as a partition of its own with one part filled. A heap gives the
    two partitions whose sums are farthest apart; they become one, the largest part of one with the smallest of the
    other, and so on, until one is left. The lists of indices ride along, so the assignment needs no second pass. For
    two parts n random numbers leave a difference of n^(-O(log n)), where dealing them out sorted leaves O(1 / n).
    Not always the optimum: 8 7 6 5 4 leaves 2, though 8 + 7 = 6 + 5 + 4.

    Cost O(n log n + n parts log parts). Empty lists where there are fewer numbers than parts. Raises UsageError for
    parts < 1 and weights that are negative or not finite. Source: Karmarkar & Karp 1982.
    """
    numbers = [float(weight) for weight in weights]
    if parts < 1:
        raise UsageError(f"a partition has 1 part or more, not {parts}. Try: parts=2")
    if any(not math.isfinite(weight) or weight < 0 for weight in numbers):
        raise UsageError("weights to partition are finite and >= 0")
    # (- spread, tie break, sums descending, their indices)
    heap: list[tuple[float, int, list[float], list[list[int]]]] = []
    for index, weight in enumerate(numbers):
        sums, lists = [weight] + [0.0] * (parts - 1), [[index]] + [[] for _ in range(parts - 1)]
        heap.append((sums[-1] - sums[0], index, sums, lists))
    heapq.heapify(heap)
    count = len(heap)
    while len(heap) > 1:
        _, _, sums, lists = heapq.heappop(heap)
        _, _, others, theirs = heapq.heappop(heap)
        merged = [
            (one + two, mine + yours)
            for one, two, mine, yours in zip(sums, reversed(others), lists, reversed(theirs), strict=True)
        ]
        merged.sort(key=lambda part: -part[0])
        sums, lists = [part[0] for part in merged], [part[1] for part in merged]
        heapq.heappush(heap, (sums[-1] - sums[0], count, sums, lists))
        count += 1
    return [sorted(part) for part in heap[0][3]] if heap else [[] for _ in range(parts)]
