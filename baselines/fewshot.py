"""Few-shot episodes: every reader on the same ones, with intervals and paired differences to the floor."""

from __future__ import annotations

from typing import Any

from baselines.fewshot_readers import READERS
from baselines.stats import mean_interval, paired_difference
from learning.environment import environment
from learning.seeds import step_seed
from neurons.errors import UsageError, nearest
from tasks.fewshot import episodes, omniglot
from tasks.fewshot.episodes import Episode

DATA = ("digits", "omniglot", "lake")
FLOOR = "nearest-pixel"


def draw(
    data: str, *, way: int, shot: int, queries: int, count: int, seeds: int, data_dir: str | None = None
) -> tuple[list[Episode], str]:
    """Episodes and where they come from: Lake's 20 runs, or ``count`` for each of ``seeds``; UsageError as
    ``Pool.draw``, and for runs that are not 20-way 1-shot."""
    if data not in DATA:
        raise UsageError(f"unknown data '{data}'.{nearest(data, DATA)} Known: {', '.join(DATA)}")
    if data == "lake":
        if (way, shot) != (20, 1):
            raise UsageError(f"Lake's runs are 20-way 1-shot, not {way}-way {shot}-shot. Try: --data omniglot")
        return omniglot.one_shot_runs(data_dir), "local:omniglot/one_shot/all_runs.zip"
    pool = episodes.digits() if data == "digits" else omniglot.background(data_dir)
    numbers = [step_seed(seed, number) for seed in range(seeds) for number in range(count)]
    return [pool.draw(way=way, shot=shot, queries=queries, seed=number) for number in numbers], pool.source


def fewshot(
    data: str,
    *,
    way: int,
    shot: int,
    queries: int = 5,
    count: int = 10,
    seeds: int = 5,
    readers: tuple[str, ...] = (),
    data_dir: str | None = None,
) -> dict[str, Any]:
    """The document of ``neurons fewshot``: a row per reader with accuracy, t interval over the episodes, the paired
    difference to the floor. Every reader meets the same episodes."""
    for name in readers:
        if name not in READERS:
            raise UsageError(f"unknown reader '{name}'.{nearest(name, READERS)} Known: {', '.join(READERS)}")
    found, source = draw(data, way=way, shot=shot, queries=queries, count=count, seeds=seeds, data_dir=data_dir)
    names = dict.fromkeys([FLOOR, *(readers or READERS)])
    scores: dict[str, list[float]] = {name: [] for name in names}
    for number, episode in enumerate(found):
        for name in names:
            scores[name].append(float((READERS[name](episode, number) == episode.answers).mean()))
    rows = [
        {
            "reader": name, **mean_interval(values)._asdict(), "values": values,
            "to_floor": None if name == FLOOR else paired_difference(values, scores[FLOOR])._asdict(),
        }
        for name, values in scores.items()
    ]  # fmt: skip
    return {
        "data": data, "data_source": source, "way": way, "shot": shot, "episodes": len(found),
        "queries": sum(len(episode.query) for episode in found), "floor": FLOOR, "rows": rows,
        "verdict": verdict(data, way, shot, rows), "env": environment(),
    }  # fmt: skip


def verdict(data: str, way: int, shot: int, rows: list[dict[str, Any]]) -> str:
    """The best fast weights beside the floor and the best of the others, in one sentence."""
    fast = [row for row in rows if row["reader"].startswith("fast-weights") and row["reader"] != "fast-weights-off"]
    best = max(fast or rows, key=lambda row: row["mean"])
    told = f"{best['reader']} answers {100 * best['mean']:.1f} % of {data}, {way}-way {shot}-shot"
    apart = best["to_floor"]
    if apart is not None:
        told += f", {100 * apart['mean']:+.1f} points to {FLOOR}"
        if apart["low"] is not None:
            told += f" (95 % {100 * apart['low']:+.1f} to {100 * apart['high']:+.1f})"
    others = [row for row in rows if row not in fast and row["reader"] != FLOOR]
    if fast and others:
        rival = max(others, key=lambda row: row["mean"])
        difference = paired_difference(best["values"], rival["values"])
        told += f"; {100 * difference.mean:+.1f} to {rival['reader']}"
        if difference.p is None or difference.p >= 0.05:
            told += " (not significant)"
    return told + "."
