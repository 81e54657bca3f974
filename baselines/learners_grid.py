"""How the options of the SDR memory were chosen: a grid on the validation split, printed and kept.

    python -m baselines.learners_grid [--streams split-digits,permuted-digits] [--out results/trials/sdr-memory.json]

Each learner meets the whole stream once; its mean accuracy over the tasks' held-out rows, after the last task, is
compared. No test row is read. The best of each stream and read-out is marked.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from baselines import LEARNERS
from baselines.setup import threads
from learning.environment import environment
from learning.files import json_text, write_atomic
from tasks import STREAMS
from tasks.continual.protocol import accuracies_on
from tasks.continual.stream import StreamData

GRID: dict[str, list[dict[str, list[Any]]]] = {
    "split-digits": [
        {"readout": ["hebbian"], "units": [4000, 12000], "patch": [4, 5, 6], "winners": [0.005, 0.01, 0.02]},
        {
            "readout": ["least-squares"],
            "units": [4000],
            "patch": [5, 6],
            "winners": [0.05, 0.1],
            "ridge": [10.0, 100.0],
        },
    ],
    "permuted-digits": [
        {"readout": ["hebbian"], "boundaries": [False], "units": [4000, 12000], "winners": [0.005, 0.01, 0.02]},
        {"readout": ["hebbian"], "boundaries": [True], "units": [4000, 12000], "winners": [0.005, 0.01, 0.02]},
        {"readout": ["least-squares"], "units": [4000], "winners": [0.02, 0.05, 0.1], "ridge": [10.0]},
    ],
    "split-mnist": [
        {"readout": ["hebbian"], "units": [12000], "patch": [9, 11], "winners": [0.005, 0.01]},
        {"readout": ["least-squares"], "units": [5000], "patch": [9], "winners": [0.05, 0.1], "ridge": [10.0]},
    ],
}
SEEDS = {"split-digits": 5, "permuted-digits": 2, "split-mnist": 1}


def settings(grid: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination of the values of ``grid``."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def held_out(stream: StreamData, options: dict[str, Any], seed: int) -> float:
    """Mean accuracy over the tasks' held-out rows after the whole stream."""
    learner = LEARNERS.build("sdr-memory", input=stream.input, output=stream.output, seed=seed, **options)
    for task in stream.tasks:
        learner.fit(task.split("train"), task, lambda step: None)
    told = stream.sees_task_id
    return float(
        np.mean([
            accuracies_on(stream, [learner], task, split="held_out", stage=len(stream), told=told)[0]
            for task in stream.tasks
        ])
    )  # fmt: skip


def measure(name: str) -> list[dict[str, Any]]:
    """A row for every setting of stream ``name``, printed as it comes; ``chosen`` marks the best of each grid."""
    stream: StreamData = STREAMS.build(name).load()
    rows = []
    for grid in GRID[name]:
        found: list[Any] = []
        for options in settings(grid):
            values = [held_out(stream, options, seed) for seed in range(SEEDS[name])]
            mean = float(np.mean(values))
            found.append({"stream": name, "options": options, "accuracy": mean, "seeds": values, "chosen": False})
            told = " ".join(f"{key}={value}" for key, value in options.items())
            print(f"{name:<16} {told:<70} {100 * mean:6.2f}", flush=True)
        max(found, key=lambda row: row["accuracy"])["chosen"] = True
        rows += found
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Options of the SDR memory, chosen on held-out rows.")
    parser.add_argument("--streams", default=",".join(GRID))
    parser.add_argument("--out", type=Path, default=Path("results/trials/sdr-memory.json"))
    asked = parser.parse_args()
    names = asked.streams.split(",")
    kept = json.loads(asked.out.read_text())["rows"] if asked.out.is_file() else []
    rows = [row for row in kept if row["stream"] not in names]
    with threads(1):
        for name in names:
            rows += measure(name)
            document = {
                "schema": 1,
                "kind": "grid",
                "what": "accuracy of sdr-memory on held-out rows after one pass over the stream; options chosen on it",
                "rows": rows,
                "env": environment(),
            }
            write_atomic(asked.out, (json_text(document, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
