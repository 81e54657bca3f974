"""One-pass recall: what fast weights hold after every pair was shown once and nothing was trained.

    python -m baselines.recall [--seeds 20] [--out results/recall.json]

A seed draws unit keys in d = 64 dimensions and normal values. One pass writes them; then every key is asked, and counts
as recalled where the answer's product with its own last value is the largest of all values shown. All rules see the
same pairs, with constants that were set once, not for each condition.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.stats import mean_interval
from baselines.untrained import command
from neurons.ops.fast_weights import Rule, chunked
from neurons.ops.fast_weights_rls import rls_chunked

WIDTH = 64
CONDITIONS = {
    "64 independent pairs": (64, 0.0, False),
    "32 re-bound keys": (32, 0.0, True),
    "32 keys of common cosine .5": (32, 0.5, False),
    "32 keys of common cosine .9": (32, 0.9, False),
}


def pairs(condition: str, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Keys (n, d); the keys as they are written, (m, d), and their values (m, d). Re-bound keys are all written twice,
    and the second value is the one to recall; keys of common cosine c are sqrt(c) u + sqrt(1 - c) k."""
    count, cosine, twice = CONDITIONS[condition]
    random = torch.Generator().manual_seed(seed)
    key = F.normalize(torch.randn(count, WIDTH, generator=random), dim=-1)
    common = F.normalize(torch.randn(1, WIDTH, generator=random), dim=-1)
    key = F.normalize(math.sqrt(cosine) * common + math.sqrt(1 - cosine) * key, dim=-1)
    written = torch.cat([key, key]) if twice else key
    return key, written, torch.randn(len(written), WIDTH, generator=random)


def recalled(key: Tensor, value: Tensor, weights: Tensor) -> float:
    """Share of ``key`` (n, d) whose answer lies nearest to its last value, one of the last n of ``value``."""
    nearest = (key @ weights @ value.T).argmax(-1)
    return float((nearest == torch.arange(len(value) - len(key), len(value))).double().mean())


def outer_product(rule: Rule, leak: float = 1.0) -> Callable[[Tensor, Tensor], tuple[Tensor, int]]:
    """Weights (d, e) after one pass of Hebb or delta with eta = .5, and the bytes of their state."""

    def write(key: Tensor, value: Tensor) -> tuple[Tensor, int]:
        rate, write = torch.tensor([-math.log(leak)]), torch.tensor([0.5])
        _, state = chunked(key[None, None], value[None, None], rate=rate, write=write, read=torch.ones(1), rule=rule)
        assert state is not None
        return state[0, 0, 0], state.nbytes

    return write


def least_squares(discount: float) -> Callable[[Tensor, Tensor], tuple[Tensor, int]]:
    """The same for recursive least squares."""

    def write(key: Tensor, value: Tensor) -> tuple[Tensor, int]:
        _, state = rls_chunked(key[None, None], value[None, None], rate=-torch.tensor(discount).log())
        return state.weights()[0, 0], sum(part.nbytes for part in state)

    return write


RULES = {
    "hebb": outer_product("hebb"),
    "hebb, leak .95": outer_product("hebb", 0.95),
    "delta": outer_product("delta"),
    "rls, discount .97": least_squares(0.97),
}


def measure(seeds: int) -> list[dict[str, Any]]:
    """A row per rule and condition: mean recall with its 95 % t interval over ``seeds``, every seed's, state bytes."""
    rows = []
    for rule, write in RULES.items():
        for condition in CONDITIONS:
            values = []
            for seed in range(seeds):
                key, written, value = pairs(condition, seed)
                weights, size = write(written, value)
                values.append(recalled(key, value, weights))
            interval = mean_interval(values)
            rows.append(
                {"rule": rule, "condition": condition, **interval._asdict(), "seeds": values, "state_bytes": size}
            )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Rules down, conditions across: mean recall, and the bytes of a state."""
    cells = {(row["rule"], row["condition"]): row for row in rows}
    lines = [f"{'recall after one pass':<22}" + "".join(f"{name:>30}" for name in CONDITIONS) + f"{'state bytes':>14}"]
    for rule in RULES:
        found = [cells[rule, condition] for condition in CONDITIONS]
        shown = [f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" for row in found]
        lines.append(f"{rule:<22}" + "".join(f"{text:>30}" for text in shown) + f"{found[0]['state_bytes']:>14,}")
    return "\n".join(lines)


def main() -> None:
    command(
        "One-pass recall of fast weights, without training.",
        kind="recall",
        what="share of keys recalled after one pass, no training, d = 64; mean and 95 % t interval over seeds",
        out="recall.json",
        measure=measure,
        table=table,
    )


if __name__ == "__main__":
    main()
