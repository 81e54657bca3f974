"""Times that can be compared: every contender in turn, round after round, so that a busy moment slows all alike."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

SAMPLE = 0.002  # seconds that one measurement lasts at least; shorter calls are repeated within it
WARM = 1.0  # a call this long needs no call before it to warm up

Call = Callable[[], Any]


def passes(phase: str, forward: Callable[[], Tensor], leaves: Sequence[Tensor]) -> Call:
    """The ``forward`` pass alone, without gradient, or forward and backward to all ``leaves`` (``train``)."""
    if phase == "forward":
        return torch.no_grad()(forward)
    with torch.no_grad():
        gradient = torch.ones_like(forward())
    return lambda: torch.autograd.grad(forward(), leaves, gradient)


class Timing(NamedTuple):
    """Seconds of each round, in order."""

    runs: tuple[float, ...]

    @property
    def seconds(self) -> float:
        return statistics.median(self.runs)

    @property
    def least(self) -> float:
        return min(self.runs)

    def faster_than(self, other: Timing) -> float:
        """How many times as fast as ``other``: the median over the rounds that both ran."""
        return statistics.median(theirs / ours for ours, theirs in zip(self.runs, other.runs, strict=False))


def contest(
    calls: Mapping[str, Call], *, repeats: int, seconds: float, device: torch.device, threads: int
) -> dict[str, Timing]:
    """Each of ``calls`` timed ``repeats`` times, less often once ``seconds`` are over, but at least once."""
    clock = time.process_time if device.type == "cpu" and threads == 1 else time.perf_counter
    begun = time.perf_counter()
    runs: dict[str, list[float]] = {}
    inner: dict[str, int] = {}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for name, call in calls.items():
            first = _seconds(call, 1, clock, device)
            if first < WARM:  # the first call paid for memory and code; the second tells how often to repeat
                first = _seconds(call, 1, clock, device)
                runs[name] = []
            else:
                runs[name] = [first]
            inner[name] = max(1, math.ceil(SAMPLE / max(first, 1e-9)))
        for done in range(repeats):
            for name, call in calls.items():
                if len(runs[name]) <= done:
                    runs[name].append(_seconds(call, inner[name], clock, device))
            if time.perf_counter() - begun > seconds:
                break
    finally:
        if collecting:
            gc.enable()
    return {name: Timing(tuple(found)) for name, found in runs.items()}


def _seconds(call: Call, times: int, clock: Callable[[], float], device: torch.device) -> float:
    _synchronise(device)
    start = clock()
    for _ in range(times):
        call()
    _synchronise(device)
    return (clock() - start) / times


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
