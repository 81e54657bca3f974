"""The bench takes turns fairly, and spends its time as it says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from baselines.bench import clock
from baselines.bench.job import Forecast, Job, affordable, run_jobs
from baselines.bench.setting import Setting

CPU = torch.device("cpu")
SMALL = Setting(lengths=(8, 16), minutes=0.02, repeats=2)


class Clock:
    """Stands still unless someone works; ``log`` says who did."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.log = 0.0, []
        for name in ("perf_counter", "process_time"):
            monkeypatch.setattr(clock.time, name, lambda: self.now)

    def work(self, name: str, *costs: float) -> Callable[[], None]:
        """Costs by call; the last one stays."""
        left = list(costs)

        def call() -> None:
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return call


# Clock and budget


def test_contenders_take_turns_and_the_first_calls_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = Clock(monkeypatch)
    calls = {"a": ticks.work("a", 0.9, 0.1, 0.1, 0.4, 0.2), "b": ticks.work("b", 0.5, 0.5, 0.2, 0.2, 0.8)}
    found = clock.contest(calls, repeats=3, seconds=100, device=CPU, threads=1)
    assert "".join(ticks.log) == "aabb" + "ab" * 3
    assert found["a"].runs == pytest.approx((0.1, 0.4, 0.2))
    assert found["a"].seconds == pytest.approx(0.2)
    assert found["a"].least == pytest.approx(0.1)
    assert found["a"].faster_than(found["b"]) == pytest.approx(2.0)  # of 2, 0.5 and 4
    assert found["a"].faster_than(found["a"]) == 1


def test_a_long_call_is_not_warmed_up_and_a_short_one_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = Clock(monkeypatch)
    calls = {"long": ticks.work("l", 2.0, 3.0), "short": ticks.work("s", 0.0005)}
    found = clock.contest(calls, repeats=2, seconds=100, device=CPU, threads=1)
    assert found["long"].runs == pytest.approx((2.0, 3.0))
    assert found["short"].runs == pytest.approx((0.0005, 0.0005))
    assert "".join(ticks.log) == "l" + "ss" + "ssss" + "l" + "ssss"


def test_a_contest_ends_after_a_whole_round_when_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = Clock(monkeypatch)
    found = clock.contest(
        {"a": ticks.work("a", 0.5), "b": ticks.work("b", 0.5)}, repeats=9, seconds=3.5, device=CPU, threads=1
    )
    assert [len(one.runs) for one in found.values()] == [2, 2]


def test_what_jobs_leave_of_their_share_goes_to_the_later_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = Clock(monkeypatch)
    shares: list[float] = []

    def job(cost: float) -> Job:
        def run(seconds: float) -> list[dict[str, Any]]:
            shares.append(seconds)
            ticks.now += cost
            return [{"cost": cost}]

        return Job("", run)

    told: list[tuple[int, float]] = []
    rows = run_jobs([job(5), job(35), job(100)], 1.0, lambda done, total, label, left: told.append((done, left)))
    assert shares == pytest.approx([20, 27.5, 20])
    assert told == [(0, 60), (1, 55), (2, 20)]
    assert [row["cost"] for row in rows] == [5, 35, 100]


def test_forecasts_grow_with_the_square_and_are_tried_in_between() -> None:
    forecast, tried = Forecast(), []

    def cost(length: int) -> float:
        tried.append(length)
        return length / 1024

    assert forecast.expected("x", 4096) == 0
    assert forecast.approach("x", 512, 1e9, cost) == 0
    assert forecast.approach("x", 65536, 20.0, cost) == 4.0 * 16**2
    assert tried == [1024, 4096]  # 16,384 was predicted to take 4 x 16 seconds
    forecast.learn("x", 16384, 3.0)
    assert forecast.approach("x", 32768, 1e9, cost) == 12
    assert tried == [1024, 4096]


def test_the_cheapest_are_served_first_and_the_others_told_why() -> None:
    refused = affordable({"dear": 3.0, "cheap": 1.0, "middle": 2.0, "unknown": 0.0}, 3.5)
    assert set(refused) == {"dear"}
    assert refused["dear"] == "predicted 3 s a call, 500 ms left of the budget"
    assert set(affordable({"unknown": 0.0, "cheap": 0.5, "dear": 0.51}, 0.0)) == {"dear"}


# Contenders
