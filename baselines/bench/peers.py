"""Against another library's linear-time attention: FAVOR+ of performer-pytorch, the usual random features.

Both render softmax attention in O(n): the coherence series over phases exactly, FAVOR+ over any query and key in
expectation. The package is an extra, in plain torch; other candidates were left out because they need a GPU
(flash-linear-attention), no longer build (pytorch-fast-transformers), or skip a query's own bucket when causal
(linear-attention-transformer).
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor

from baselines.bench import peers_learning
from baselines.bench.clock import passes
from baselines.bench.contenders import contender
from baselines.bench.job import Forecast, Job, Row, affordable, all_timed, measure, skipped
from baselines.bench.setting import Setting
from neurons.errors import UsageError
from neurons.ops.coherence import coherence_attention

PEER = "favor+"
LENGTHS = (1024, 4096, 16384)
FEATURES, KAPPA, HEADS, ERROR_AT = 256, 4.0, 8, 1024


def jobs(setting: Setting) -> list[Job]:
    """UsageError if the peer is not installed."""
    if setting.rivals == "predictive-coding":
        return peers_learning.jobs(setting)
    favor(2, causal=False)
    forecast = Forecast()
    timing = [
        Job(f"peers, {form} {phase} at {length:,}", partial(_point, setting, forecast, length, form, phase))
        for length in LENGTHS
        for form in ("full", "causal")
        for phase in setting.phases
        if phase != "decode"
    ]
    return [Job("peers, accuracy", lambda seconds: accuracy()), *timing]


def favor(width: int, *, causal: bool) -> Any:
    """FAVOR+ for heads of ``width``, a call of query, key and value (B, H, T, width); random features of seed 0."""
    said = io.StringIO()  # it prints that its CUDA extension is missing
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said):
            warnings.simplefilter("ignore")
            from performer_pytorch import FastAttention

            torch.manual_seed(0)
            return FastAttention(dim_heads=width, nb_features=FEATURES, causal=causal)
    except ImportError as error:
        raise UsageError(f"the peer cannot be imported ({error}). Try: pip install 'neurons[peers]'") from error


def accuracy() -> list[Row]:
    """Largest error of both against von Mises attention over 1,024 phases: for FAVOR+ it is softmax attention of
    ``q = k = sqrt(kappa) (cos phi, sin phi)`` (which it scales by d^(-1/2) itself)."""
    generator = torch.Generator().manual_seed(0)
    phase = 2 * math.pi * torch.rand(1, HEADS, ERROR_AT, generator=generator)
    value = torch.randn(1, HEADS, ERROR_AT, 2, generator=generator)
    exact = coherence_attention(phase.double(), value.double(), kappa=KAPPA, mode="dense")
    point = math.sqrt(KAPPA) * 2**0.25 * torch.stack([phase.cos(), phase.sin()], -1)
    with torch.no_grad():
        found = {
            "coherence": coherence_attention(phase, value, kappa=KAPPA),
            PEER: favor(2, causal=False)(point, point, value),
        }
    return [
        {"name": name, "form": "full", "length": ERROR_AT, "error": _error(out, exact), "skipped": None}
        for name, out in found.items()
    ]


def _error(out: Tensor, exact: Tensor) -> float:
    return float((out.double() - exact).abs().max())


def _point(setting: Setting, forecast: Forecast, length: int, form: str, phase: str, seconds: float) -> list[Row]:
    causal, where = form == "causal", {"form": form, "phase": phase, "length": length}
    ours = contender("operation", "coherence", setting, length, causal)
    shape = (setting.batch, setting.heads, length, setting.width // setting.heads)
    generator = torch.Generator().manual_seed(0)
    leaves = tuple(torch.randn(shape, generator=generator).to(setting.device).requires_grad_() for _ in range(3))
    peer = favor(shape[-1], causal=causal).to(setting.device)
    expected = {name: forecast.expected((form, phase, name), length) for name in ("coherence", PEER)}
    refused = affordable(expected, seconds)
    calls = {"coherence": ours.call(phase)}
    if PEER not in refused:
        calls[PEER] = passes(phase, lambda: peer(*leaves), leaves)
    timings = measure(calls, setting, seconds)
    for name, timing in timings.items():
        forecast.learn((form, phase, name), length, timing.least)
    rows = all_timed(timings, PEER, **where)
    return rows + [skipped(PEER, reason, PEER, **where) for reason in [refused.get(PEER)] if reason]
