"""Runs suites of benchmarks and puts together one document: rows, bars, environment."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from baselines.bench import language, memory, network, parts, peers, resonance, scaling, speed
from baselines.bench.bars import judge
from baselines.bench.job import Job, Progress, Row, run_jobs
from baselines.bench.setting import Setting
from baselines.setup import threads
from learning.environment import environment

MEASURED: dict[str, Callable[[Setting], list[Job]]] = {
    "speed": speed.jobs,
    "memory": memory.jobs,
    "model": network.jobs,
    "decode": language.jobs,
    "resonance": resonance.jobs,
    "dendrites": parts.dendrites,
    "fast-weights": parts.fast_slow,
    "peers": peers.jobs,
}
FITTED = ("speed", "memory")  # what the exponents are fitted to


def bench(suites: Sequence[str], setting: Setting, progress: Progress) -> dict[str, Any]:
    """``rows`` by suite, ``bars`` judged, ``setting``, ``seconds``, ``env`` and ``load``, how many processes wanted a
    processor when it began (None where the system does not tell).

    Each suite has the setting's minutes; suites of fixed, short jobs end earlier. The exponents are fitted to what
    ``speed`` and ``memory`` measured, or, where those were not asked for, to the operations' causal curves alone.
    """
    begun, load = time.perf_counter(), _load()
    rows: dict[str, list[Row]] = {}
    with threads(setting.threads):
        planned = {name: MEASURED[name](setting) for name in suites if name != "scaling"}  # refuse before the first run
        for name, jobs in planned.items():
            rows[name] = run_jobs(jobs, setting.minutes, progress)
        if "scaling" in suites:
            curves = dict(rows)
            if not set(FITTED) <= set(rows):
                jobs = [*speed.jobs(setting, ("operation",), (True,)), *memory.jobs(setting, ("operation",))]
                extra = run_jobs(jobs, setting.minutes, progress)
                curves = {
                    "speed": [row for row in extra if "phase" in row],
                    "memory": [row for row in extra if "phase" not in row],
                }
            rows["scaling"] = scaling.exponents(curves["speed"], curves["memory"])
        env = environment()
    return {
        "suites": list(suites),
        "setting": asdict(setting),
        "rows": {name: rows[name] for name in suites},
        "bars": judge(rows, setting),
        "seconds": time.perf_counter() - begun,
        "load": load,
        "env": env | {"cores": os.cpu_count()},
    }


def _load() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
