"""A benchmark is a list of jobs; each gets its share of the budget and gives rows, as plain data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from baselines.bench.clock import Call, Timing, contest
from baselines.bench.setting import Setting
from baselines.report_format import seconds as duration

Row = dict[str, Any]
CHEAP = 0.5  # seconds
PROBE = 1024  # length that a call is tried at first if nothing shorter was measured


@dataclass(frozen=True)
class Job:
    """``run(seconds)`` measures for about so long and returns its rows."""

    label: str
    run: Callable[[float], list[Row]]


class Progress(Protocol):
    def __call__(self, done: int, total: int, label: str, left: float) -> None:
        """Job ``label`` is about to start after ``done`` of ``total``; at most ``left`` seconds to go."""


def run_jobs(jobs: list[Job], minutes: float, progress: Progress) -> list[Row]:
    """Every job in turn. What one leaves of its share goes to those after it, so the long ones belong at the end."""
    end = time.perf_counter() + 60 * minutes
    rows = []
    for done, job in enumerate(jobs):
        left = max(0.0, end - time.perf_counter())
        progress(done, len(jobs), job.label, left)
        rows += job.run(left / (len(jobs) - done))
    return rows


@dataclass
class Forecast:
    """What a call will cost at a length it was not run at: the last cost times the square of the ratio of lengths."""

    known: dict[Any, tuple[int, float]] = field(default_factory=dict)

    def expected(self, key: Any, length: int) -> float:
        if key not in self.known:
            return 0.0
        at, seconds = self.known[key]
        return seconds * (length / at) ** 2

    def learn(self, key: Any, length: int, seconds: float) -> None:
        self.known[key] = (length, seconds)

    def approach(self, key: Any, length: int, seconds: float, cost: Callable[[int], float]) -> float:
        """:meth:`expected`, after trying lengths in between, four times as long each, while they fit ``seconds``: from
        far below, the square says little. ``cost(length)`` runs the call once and tells its seconds."""
        step = 4 * self.known[key][0] if key in self.known else PROBE
        while step < length and self.expected(key, step) <= seconds:
            self.learn(key, step, cost(step))
            step *= 4
        return self.expected(key, length)


def affordable(expected: Mapping[str, float], seconds: float) -> dict[str, str]:
    """Why a contender is left out, for those that do not fit: the cheapest are served first, and what takes no more
    than ``CHEAP`` in any case, so that a busy machine does not cost the long end of the fast curves."""
    refused, total = {}, 0.0
    for name, cost in sorted(expected.items(), key=lambda item: item[1]):
        if total + cost > seconds and cost > CHEAP:
            refused[name] = f"predicted {duration(cost)} a call, {duration(seconds - total)} left of the budget"
        else:
            total += cost
    return refused


def measure(calls: Mapping[str, Call], setting: Setting, seconds: float) -> dict[str, Timing]:
    return contest(
        calls,
        repeats=setting.repeats,
        seconds=seconds,
        device=torch.device(setting.device),
        threads=setting.threads,
    )


def timed(name: str, timings: Mapping[str, Timing], reference: str, **where: Any) -> Row:
    """``ratio``: how many times as fast as the reference, None where that was not run."""
    timing = timings[name]
    ratio = timing.faster_than(timings[reference]) if reference in timings else None
    return {
        **where,
        "name": name,
        "seconds": timing.seconds,
        "least_seconds": timing.least,
        "runs": len(timing.runs),
        "reference": reference,
        "ratio": ratio,
        "skipped": None,
    }


def skipped(name: str, reason: str, reference: str, **where: Any) -> Row:
    nothing = {"seconds": None, "least_seconds": None, "runs": 0, "reference": reference, "ratio": None}
    return {**where, "name": name, **nothing, "skipped": reason}


def all_timed(timings: Mapping[str, Timing], reference: str, **where: Any) -> list[Row]:
    return [timed(name, timings, reference, **where) for name in timings]


def find(rows: Iterable[Row], **where: Any) -> Row | None:
    """The first row with these values."""
    return next((row for row in rows if all(row.get(key) == value for key, value in where.items())), None)
