"""Holographic recall: how many pairs a vector holds, by width, beside what theory says.

    python -m baselines.holographic [--seeds 20] [--out results/holographic.json]

A seed draws unitary keys and unit values, binds and sums them, and asks for every key. It counts as recalled where the
answer lies nearest to its own value among all that were stored. Nothing is trained.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional as F

from baselines.stats import mean_interval
from baselines.untrained import command
from neurons.resonance.holographic import HolographicMemory, expected_recall, unitary_keys

WIDTHS = (256, 1024, 4096)
PAIRS = (2, 8, 32, 128, 512)


def once(width: int, pairs: int, seed: int) -> dict[str, float]:
    """Recall, mean cosine of the raw and of the cleaned answer with its value, signal to noise, of one draw."""
    random = torch.Generator().manual_seed(seed)
    keys = unitary_keys(pairs, width, generator=random)
    values = F.normalize(torch.randn(pairs, width, generator=random), dim=-1)
    memory = HolographicMemory(width)
    memory.write(keys, values)
    raw, clean = memory.read(keys, clean=False), memory.read(keys)
    scores = raw @ values.T
    others = scores[~torch.eye(pairs, dtype=torch.bool)]
    return {
        "recall": float((scores.argmax(-1) == torch.arange(pairs)).double().mean()),
        "cosine": float(F.cosine_similarity(raw, values).mean()),
        "cleaned": float(F.cosine_similarity(clean, values).mean()),
        "signal_to_noise": float(scores.diagonal().mean() / others.square().mean().sqrt()),
    }


def measure(seeds: int) -> list[dict[str, Any]]:
    """A row per width and number of pairs: means over ``seeds``, recall with its 95 % t interval, and the theory's."""
    rows = []
    for width in WIDTHS:
        for pairs in PAIRS:
            found = [once(width, pairs, seed) for seed in range(seeds)]
            means = {key: sum(one[key] for one in found) / seeds for key in found[0]}
            interval = mean_interval([one["recall"] for one in found])
            theory = {
                "recall": expected_recall(width, pairs),
                "cosine": pairs**-0.5,
                "signal_to_noise": math.sqrt(width / (pairs - 1)),
            }
            rows.append({"width": width, "pairs": pairs, **means, "interval": interval._asdict(), "theory": theory})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Pairs down, widths across: recall (theory), and the cosine after clean-up."""
    cells = {(row["width"], row["pairs"]): row for row in rows}
    lines = [f"{'pairs':>6}" + "".join(f"{f'recall (theory), cleaned at {width:,}':>42}" for width in WIDTHS)]
    for pairs in PAIRS:
        found = [cells[width, pairs] for width in WIDTHS]
        shown = [f"{row['recall']:.3f} ({row['theory']['recall']:.3f}), {row['cleaned']:.3f}" for row in found]
        lines.append(f"{pairs:>6}" + "".join(f"{text:>42}" for text in shown))
    return "\n".join(lines)


def main() -> None:
    command(
        "Recall of a holographic memory by width and number of pairs.",
        kind="holographic-recall",
        what="share of keys recalled from one vector, no training; means over seeds, 95 % t interval of recall",
        out="holographic.json",
        measure=measure,
        table=table,
    )


if __name__ == "__main__":
    main()
