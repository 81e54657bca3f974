"""Does consolidation prevent forgetting? On against off, on three streams.

    python -m baselines.consolidation [--seeds 5] [--out results/continual/consolidation.json]

Two carriers. In neuronsv2 the fast weights of a sequence are written into medium and slow ones at its end (taus of .1,
1000 and 100,000 s): the same network with these and without. In an mlp every weight leaks into slower copies of itself
(the strategy benna-fusi): the same network with plain training. No carrier is told the task, stores a sample or knows
when a task ends. Differences are paired over the seeds, with 95 % t intervals; nothing was tuned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from baselines.continual_config import MODEL, resolve_continual
from baselines.continual_run import run_strategy
from baselines.stats import mean_interval, paired_difference
from baselines.untrained import command

STREAMS = ("split-digits", "permuted-digits", "rotated-digits")
EPOCHS = 3
CARRIERS = {
    "three timescales in neuronsv2": (
        {"model": "neuronsv2:tiny:fast_rule=delta", "strategies": ["naive"]},
        {"model": "neuronsv2:tiny:fast_rule=delta:consolidate=true", "strategies": ["naive"]},
    ),
    "benna-fusi chain in an mlp": (
        {"model": MODEL, "strategies": ["naive"]},
        {"model": MODEL, "strategies": ["benna-fusi"]},
    ),
}
METRICS = ("acc", "forgetting", "learning_accuracy")


def measure(seeds: int) -> list[dict[str, Any]]:
    """A row per stream and carrier: each metric of both arms with its interval, and on less off."""
    rows = []
    for stream in STREAMS:
        for carrier, arms in CARRIERS.items():
            found = [_values(stream, arm, seeds) for arm in arms]
            row: dict[str, Any] = {"stream": stream, "scenario": "domain", "epochs": EPOCHS, "carrier": carrier}
            for name, values in zip(("off", "on"), found, strict=True):
                row[name] = {key: mean_interval(values[key])._asdict() | {"values": values[key]} for key in METRICS}
            row["on_less_off"] = {key: paired_difference(found[1][key], found[0][key])._asdict() for key in METRICS}
            rows.append(row)
    return rows


def _values(stream: str, arm: Mapping[str, Any], seeds: int) -> dict[str, list[float]]:
    """Each metric of every seed on the test split."""
    config = resolve_continual(stream, scenario="domain", epochs=EPOCHS, seeds=range(seeds), **arm)
    results = run_strategy(config, 0)
    return {key: [result["metrics"][key] for result in results] for key in METRICS}


def table(rows: list[dict[str, Any]]) -> str:
    """Accuracy and forgetting, off and on, and the paired difference of each."""
    lines = [f"{'stream':<17}{'carrier':<31}{'':<11}{'off':>7}{'on':>7}{'on - off':>10}{'95 %':>18}{'p':>8}"]
    for row in rows:
        for key, title in (("acc", "accuracy"), ("forgetting", "forgetting")):
            off, on, apart = row["off"][key]["mean"], row["on"][key]["mean"], row["on_less_off"][key]
            interval = f"[{100 * apart['low']:+.1f}, {100 * apart['high']:+.1f}]"
            lines.append(
                f"{row['stream']:<17}{row['carrier']:<31}{title:<11}{100 * off:7.1f}{100 * on:7.1f}"
                f"{100 * apart['mean']:+10.1f}{interval:>18}{apart['p']:8.2g}"
            )
    return "\n".join(lines)


def main() -> None:
    command(
        "Consolidation on against off, on three streams.",
        kind="consolidation",
        what="accuracy over all tasks after the last, forgetting and learning accuracy with consolidation and without",
        out="continual/consolidation.json",
        measure=measure,
        table=table,
    )


if __name__ == "__main__":
    main()
