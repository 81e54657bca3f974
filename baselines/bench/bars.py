"""What this project promises about its speed, each as a number that a benchmark can miss. Imports no torch."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from baselines.bench.setting import Setting


@dataclass(frozen=True)
class Bar:
    """``key`` of the row of ``suite`` that ``where`` finds is at least ``least``, at most ``most``.

    With ``over``, a second row, it is the quotient of the two; ``over_key``: of the second one's, where not the same.
    """

    suite: str
    text: str
    where: Mapping[str, Any]
    key: str
    least: float = -math.inf
    most: float = math.inf
    over: Mapping[str, Any] | None = None
    over_key: str | None = None

    def measured(self, rows: list[dict[str, Any]]) -> float | None:
        """The number, or None where it was not measured."""
        value = _value(rows, self.where, self.key)
        if self.over is None or value is None:
            return value
        other = _value(rows, self.over, self.over_key or self.key)
        return None if not other else value / other


def _value(rows: list[dict[str, Any]], where: Mapping[str, Any], key: str) -> float | None:
    found = next((row for row in rows if all(row.get(name) == value for name, value in where.items())), None)
    value = None if found is None else found.get(key)  # what was left out has no numbers
    return None if value is None else float(value)


_OP = {"group": "operation", "name": "coherence"}
_CAUSAL = {**_OP, "form": "causal"}
_DECODE = {"group": "mixer", "name": "gamma", "form": "causal", "phase": "decode"}
_LABEL = {"name": "neuronsv2", "output": "label"}
_RESONANCE = {"what": "networks", "name": "resonance_net", "output": "label", "batch": 1}
_LATENT = {"name": "neuromanifold_gpt, latent attention"}
_DENDRITES = {"name": "sparse", "phase": "train"}

BARS = (
    Bar(
        "speed", "causal forward + backward at 16,384 tokens, d = 64: at least 45 times as fast as SDPA",
        {**_CAUSAL, "phase": "train", "length": 16384}, "ratio", least=45,
    ),
    Bar(
        "speed", "causal forward + backward at 1,024 tokens, d = 64: at least 4 times as fast as SDPA",
        {**_CAUSAL, "phase": "train", "length": 1024}, "ratio", least=4,
    ),
    Bar(
        "speed", "causal forward at 16,384 tokens, d = 64: at least 20 times as fast as SDPA",
        {**_CAUSAL, "phase": "forward", "length": 16384}, "ratio", least=20,
    ),
    Bar(
        "speed", "full forward at 16,384 tokens, d = 64: at least 50 times as fast as SDPA",
        {**_OP, "form": "full", "phase": "forward", "length": 16384}, "ratio", least=50,
    ),
    Bar(
        "speed", "a token decoded after 16,384 others takes at most 1.25 times as long as one after 512",
        {**_DECODE, "length": 16384}, "seconds", most=1.25, over={**_DECODE, "length": 512},
    ),
    Bar(
        "speed", "the state that decoding carries is as large after 16,384 tokens as after 512",
        {**_DECODE, "length": 16384}, "state_bytes", most=1, over={**_DECODE, "length": 512},
    ),
    Bar(
        "memory", "causal training at 8,192 tokens keeps at most a fiftieth of what a materialised matrix needs",
        {**_CAUSAL, "length": 8192}, "saved_bytes", most=0.02, over={**_CAUSAL, "name": "naive", "length": 8192},
    ),
    Bar(
        "scaling", "causal forward + backward grows at most as n^1.10 (upper end of the interval)",
        {**_CAUSAL, "cost": "train time"}, "high", most=1.10,
    ),
    Bar(
        "scaling", "what causal training keeps grows at most as n^1.05 (upper end of the interval)",
        {**_CAUSAL, "cost": "saved memory"}, "high", most=1.05,
    ),
    Bar(
        "model", "neuronsv2 at 16,384 tokens, one label: at least 10 times as fast as a transformer of its size",
        {**_LABEL, "length": 16384}, "ratio", least=10,
    ),
    Bar(
        "model", "neuronsv2 at 4,096 tokens, one label: at least 5 times as fast",
        {**_LABEL, "length": 4096}, "ratio", least=5,
    ),
    Bar(
        "model", "neuronsv2 at 512 tokens, one label: at most 1.1 times as slow",
        {**_LABEL, "length": 512}, "ratio", least=1 / 1.1,
    ),
    *(
        Bar(
            "decode", f"{name}: the state is as large behind 8,192 tokens as behind 128",
            {"name": name, "length": 8192}, "state_bytes", least=1, most=1, over={"name": name, "length": 128},
        )
        for name in ("neuronsv2", "resonance_net")
    ),
    *(
        Bar(
            "decode", f"{name}: a token behind 8,192 others takes at most 1.25 times as long as one behind 128",
            {"name": name, "length": 8192}, "seconds", most=1.25, over={"name": name, "length": 128},
        )
        for name in ("neuronsv2", "resonance_net")
    ),
    Bar(
        "decode", "latent attention: a token leaves as many bytes as are declared",
        {**_LATENT, "length": 8192}, "bytes_per_token", least=1, most=1,
        over={**_LATENT, "length": 8192}, over_key="declared_bytes_per_token",
    ),
    Bar(
        "resonance", "resonance_net, 768 x 6, one sample of 1,024 tokens: faster than a transformer of equal width",
        {**_RESONANCE, "length": 1024}, "ratio", least=1,
    ),
    Bar(
        "resonance", "resonance_net, eight samples of 1,024 tokens: faster than a transformer of equal width",
        {**_RESONANCE, "batch": 8, "length": 1024}, "ratio", least=1,
    ),
    Bar(
        "resonance", "resonance_net, one sample of 8,192 tokens: at least 8 times as fast",
        {**_RESONANCE, "length": 8192}, "ratio", least=8,
    ),
    Bar(
        "resonance", "resonance_net, forward, 512 to 8,192 tokens: grows at most as n^1.15",
        {**_RESONANCE, "what": "exponents"}, "exponent", most=1.15,
    ),
    Bar(
        "dendrites", "sparse branches, forward + backward with input gradients: at least 8 times masked dense",
        _DENDRITES, "ratio", least=8,
    ),
    Bar(
        "fast-weights", "delta rule, 1,024 steps, chunked: at least 12 times as fast as the recurrence",
        {"name": "chunked", "rule": "delta", "phase": "forward"}, "ratio", least=12,
    ),
    Bar(
        "fast-weights", "Hebb's rule, 1,024 steps, chunked: at least 20 times as fast as the recurrence",
        {"name": "chunked", "rule": "hebb", "phase": "forward"}, "ratio", least=20,
    ),
    *(
        Bar(
            "peers", f"{what}, T = {steps}: at most {most} times backprop with fused Adam",
            {"name": f"torch {name}", "steps": steps}, "cost", most=most,
        )
        for what, name, steps, most in (
            ("standard predictive coding, specialised path", "spc", 8, 2.0),
            ("standard predictive coding, specialised path", "spc", 20, 3.5),
            ("standard predictive coding, generic path", "spc, generic path", 8, 3.3),
            ("standard predictive coding, generic path", "spc, generic path", 20, 6.3),
            ("Z-IL", "zil", 8, 1.1),
        )
    ),
    *(
        Bar(
            "peers", f"ahead of FabricPC, T = {steps}: a smaller multiple of the own backprop",
            {"name": "torch spc", "steps": steps}, "cost", most=1.0, over={"name": "fabricpc spc", "steps": steps},
        )
        for steps in (8, 20)
    ),
)  # fmt: skip


def judge(rows: Mapping[str, list[dict[str, Any]]], setting: Setting) -> list[dict[str, Any]]:
    """Every bar on what was asked for: text, ``bar``, ``measured`` and ``met``, None where it was not measured.

    The bars on attention are stated for one sample and one head of 64 channels; other shapes are not judged.
    """
    judged = []
    for bar in BARS:
        if bar.suite not in rows or not _asked(bar, setting):
            continue
        value = bar.measured(rows[bar.suite])
        met = None if value is None else bar.least <= value <= bar.most
        limit = bar.least if math.isfinite(bar.least) else bar.most
        judged.append({"suite": bar.suite, "text": bar.text, "bar": limit, "measured": value, "met": met})
    return judged


def _asked(bar: Bar, setting: Setting) -> bool:
    if bar.suite == "peers":
        installed = bar.over is None or importlib.util.find_spec("fabricpc") is not None
        return setting.rivals == "predictive-coding" and installed
    if bar.suite not in ("speed", "memory", "scaling"):
        return True
    if (setting.batch, setting.heads, setting.width) != (1, 1, 64):
        return False
    for where in (bar.where, bar.over or bar.where):
        phase = where.get("phase") or ("train" if where.get("cost") == "train time" else None)
        if where.get("length", setting.lengths[0]) not in setting.lengths or not setting.wants(where["name"]):
            return False
        if phase is not None and phase not in setting.phases:
            return False
    return True
