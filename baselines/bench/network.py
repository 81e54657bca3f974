"""The whole network: latency of ``neuronsv2`` and of a transformer of as many parameters."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import cast

import torch

from baselines.bench.clock import Call
from baselines.bench.job import Forecast, Job, Row, affordable, all_timed, measure, skipped
from baselines.bench.setting import Setting
from baselines.config import Resolved
from baselines.match import match
from neurons import MODELS
from neurons.model import Model
from neurons.specs import Batch, InputSpec, OutputSpec
from tasks.task import TaskData

NAMES, REFERENCE = ("neuronsv2", "transformer"), "transformer"
LENGTHS = (64, 512, 4096, 16384)
SYMBOLS, CLASSES = 256, 10
WIDTH, LAYERS = 128, 2


def jobs(setting: Setting) -> list[Job]:
    """One sample at each of ``LENGTHS``: a label for the whole sequence, and the next token at every step."""
    forecast = Forecast()
    return [
        Job(f"models, {output.kind} at {length:,}", partial(_point, setting, forecast, output, length))
        for length in LENGTHS
        for output in (OutputSpec("label", CLASSES), OutputSpec("token", SYMBOLS))
    ]


def matched(length: int, output: OutputSpec) -> dict[str, Model]:
    """Both models for sequences of ``length``; the transformer's width is the one with the nearest number of
    non-embedding parameters."""
    specs = {"input": InputSpec("tokens", length, SYMBOLS), "output": output}
    options = {name: MODELS.entry(name).defaults() | {"width": WIDTH, "layers": LAYERS} for name in NAMES}
    torch.manual_seed(0)
    # Before the matching, which builds on the meta device: constants that are made once and kept need a real one.
    ours: Model = MODELS.build(NAMES[0], **specs, **options[NAMES[0]])
    runs = [Resolved({"model": {"name": name, "options": options[name]}}, {}, name) for name in NAMES]
    equal, _ = match(runs, cast(TaskData, SimpleNamespace(**specs)), "params", None)
    return {NAMES[0]: ours, NAMES[1]: MODELS.build(NAMES[1], **specs, **equal[1].config["model"]["options"])}


def _point(setting: Setting, forecast: Forecast, output: OutputSpec, length: int, seconds: float) -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(1, SYMBOLS, (1, length), generator=generator)
    batch = Batch(x, x if output.kind == "token" else x[:, 0] % CLASSES).to(setting.device)
    models = {name: model.to(setting.device).eval() for name, model in matched(length, output).items()}
    key = {name: (name, output.kind) for name in models}
    refused = affordable({name: forecast.expected(key[name], length) for name in models}, seconds)
    calls: dict[str, Call] = {
        name: torch.no_grad()(partial(model, batch)) for name, model in models.items() if name not in refused
    }
    timings = measure(calls, setting, seconds)
    for name, timing in timings.items():
        forecast.learn(key[name], length, timing.least)
    where = {"output": output.kind, "length": length}
    rows = all_timed(timings, REFERENCE, **where)
    rows += [skipped(name, reason, REFERENCE, **where) for name, reason in refused.items()]
    counts = {name: model.parameter_counts()["non_embedding"] for name, model in models.items()}
    return [row | {"parameters": counts[row["name"]]} for row in rows]
