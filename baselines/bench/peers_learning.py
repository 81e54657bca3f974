"""Predictive coding against other libraries: the same network, data and optimiser, each as a ratio to its own backprop.

784-256-256-10, ReLU, cross-entropy, batch 256, Adam, inference rate 0.1. What another library's backprop costs is its
own business (a jitted step, say), so every row is divided by backprop in the same library, round by round.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from baselines.bench.clock import Call
from baselines.bench.job import Job, Row, measure, skipped
from baselines.bench.peers_jax import fabricpc_calls
from baselines.bench.setting import Setting
from learning.rules.predictive_coding import PredictiveCoding

SIZES, BATCH, RATE, STEPS = (784, 256, 256, 10), 256, 0.1, (8, 20)
BACKPROP = "backprop"

# package -> what makes its calls: (x, one-hot y, sizes, rate, steps) -> calls, ``backprop`` among them
PEERS: dict[str, Callable[..., dict[str, Call]]] = {"fabricpc": fabricpc_calls}
WITHOUT = {  # known, and why they are not measured
    "pcx": "its release needs jax < 0.5, which cannot stand beside fabricpc's; there is no adapter",
    "jpc": "pip finds no release of it; there is no adapter",
}


def jobs(setting: Setting) -> list[Job]:
    """One job a number of settling steps; all libraries take turns within it."""
    return [Job(f"predictive coding, T = {steps}", partial(_contest, setting, steps)) for steps in STEPS]


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """x (256, 784) standard normal, y (256,) class numbers, from seed 0."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(BATCH, SIZES[0], generator=generator), torch.randint(0, SIZES[-1], (BATCH,), generator=generator)


def _contest(setting: Setting, steps: int, seconds: float) -> list[Row]:
    x, y = data()
    calls = {f"torch {name}": call for name, call in our_calls(x, y, steps, setting.device).items()}
    rows: list[Row] = []
    for package, make in PEERS.items():
        reason = _missing(package)
        if reason is None:
            try:
                made = make(x.numpy(), np.eye(SIZES[-1], dtype=np.float32)[y.numpy()], SIZES, RATE, steps)
                calls |= {f"{package} {name}": call for name, call in made.items()}
            except Exception as error:  # another version's interface: say so, and measure the others
                reason = f"it does not run here ({type(error).__name__}: {error})"
        if reason is not None:
            rows.append(skipped(package, reason, BACKPROP, steps=steps) | {"cost": None})
    rows += [skipped(package, reason, BACKPROP, steps=steps) | {"cost": None} for package, reason in WITHOUT.items()]
    timings = measure(calls, setting, seconds)
    for name, timing in timings.items():
        package = name.split()[0]
        own = f"{package} {BACKPROP}"
        rows.append(
            {
                "steps": steps,
                "name": name,
                "seconds": timing.seconds,
                "least_seconds": timing.least,
                "runs": len(timing.runs),
                "reference": own,
                "cost": timings[own].faster_than(timing),  # the median over rounds of its time by backprop's
                "skipped": None,
            }
        )
    return rows


def _missing(package: str) -> str | None:
    if importlib.util.find_spec(package) is None:
        return "not installed. Try: pip install 'neurons[peers]'"
    return None


def network() -> nn.Sequential:
    torch.manual_seed(0)
    hidden = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(SIZES[:-1])]
    return nn.Sequential(*hidden, nn.Linear(*SIZES[-2:]))


def our_calls(x: torch.Tensor, y: torch.Tensor, steps: int, device: str) -> dict[str, Call]:
    """A whole training step each: gradient and fused Adam."""
    x, y = x.to(device), y.to(device)

    def backprop() -> Call:
        model = network().to(device)
        adam = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

        def call() -> None:
            adam.zero_grad()
            F.cross_entropy(model(x), y).backward()
            adam.step()

        return call

    def learn(rule: PredictiveCoding) -> Call:
        model = network().to(device)
        adam = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

        def call() -> None:
            adam.zero_grad()
            rule.step(model, (x, y), loss=F.cross_entropy)
            adam.step()

        return call

    settling: dict[str, Any] = {"steps": steps, "inference_rate": RATE}
    generic = PredictiveCoding(**settling)
    generic.specialised = False
    return {
        BACKPROP: backprop(),
        "spc": learn(PredictiveCoding(**settling)),
        "spc, generic path": learn(generic),
        "zil": learn(PredictiveCoding(variant="zil")),
    }
