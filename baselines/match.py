"""Equal budgets: parameters by width, training FLOP or time by steps. Decided once, before step 0."""

from __future__ import annotations

import copy
import math
import statistics
from dataclasses import replace
from typing import Any

import torch

from baselines.config import Resolved
from baselines.setup import Setup, load_task, macs_per_step, setup
from learning.trainer import Trainer
from neurons import MODELS
from neurons.errors import UsageError
from tasks.task import TaskData

CALIBRATIONS, CALIBRATION_STEPS = 3, 6
Budgeted = tuple[list[Resolved], dict[str, Any]]


def match(runs: list[Resolved], data: TaskData, how: str, minutes: float | None) -> Budgeted:
    """``runs`` with their widths or steps adjusted, and the budget that they now share.

    steps: every run takes the steps it was configured with. params: widths are chosen so that the
    non-embedding parameters come nearest to the first model's. flops: the first run's training MACs buy the others'
    steps. time: ``minutes`` (or the first run's expected time) buy everybody's steps, by interleaved calibration.
    """
    if how == "steps":
        return runs, {"match": "steps", "value": runs[0].config["trainer"]["steps"], "unit": "steps"}
    if how == "params":
        return _by_parameters(runs, data)
    if how == "flops":
        return _by_macs(runs, data)
    if how == "time":
        return _by_time(runs, data, minutes)
    raise UsageError(f"--match takes steps, params, flops or time, not '{how}'")


def with_steps(run: Resolved, steps: int, origin: str) -> Resolved:
    """``run`` with its number of steps replaced."""
    config = copy.deepcopy(run.config)
    config["trainer"]["steps"] = max(1, steps)
    return replace(run, config=config, origin=run.origin | {"trainer.steps": origin})


def _non_embedding(run: Resolved, data: TaskData, width: int | None = None) -> int:
    model = run.config["model"]
    options = dict(model["options"])
    if width is not None:
        options[MODELS.get(model["name"]).width_option] = width  # type: ignore[attr-defined]
    with torch.device("meta"):
        return MODELS.build(model["name"], input=data.input, output=data.output, **options).parameter_counts()[
            "non_embedding"
        ]


def _by_parameters(runs: list[Resolved], data: TaskData) -> Budgeted:
    target = _non_embedding(runs[0], data)
    widths: dict[str, int] = {}
    matched = []
    for run in runs:
        name = run.config["model"]["name"]
        option = MODELS.get(name).width_option  # type: ignore[attr-defined]
        key = run.label.split(" / ")[0]
        if key not in widths:
            options = run.config["model"]["options"]
            unit = math.lcm(4, options.get("heads") or 1, options.get("branches") or 1)
            reference = run.config["model"] == runs[0].config["model"]
            widths[key] = options[option] if reference else _nearest_width(run, data, target, unit)
        config = copy.deepcopy(run.config)
        config["model"]["options"][option] = widths[key]
        matched.append(replace(run, config=config, origin=run.origin | {f"model.{option}": "matched parameters"}))
    return matched, {"match": "params", "value": target, "unit": "non-embedding parameters"}


def _nearest_width(run: Resolved, data: TaskData, target: int, unit: int) -> int:
    """The multiple of ``unit`` whose parameter count is nearest to ``target``."""

    def size(multiple: int) -> int:
        try:
            return _non_embedding(run, data, multiple * unit)
        except UsageError:  # too narrow for its heads
            return 0

    low, high = 1, 2
    while size(high) < target and high * unit < 65_536:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= target else (low, middle)
    return unit * min((low, high), key=lambda multiple: abs(size(multiple) - target))


def _first_of_each(runs: list[Resolved]) -> dict[str, Resolved]:
    firsts: dict[str, Resolved] = {}
    for run in runs:
        firsts.setdefault(run.label, run)
    return firsts


def _by_macs(runs: list[Resolved], data: TaskData) -> Budgeted:
    per_step = {label: macs_per_step(setup(run.config)) for label, run in _first_of_each(runs).items()}
    budget = per_step[runs[0].label] * runs[0].config["trainer"]["steps"]
    matched = [with_steps(run, round(budget / per_step[run.label]), "matched FLOP") for run in runs]
    return matched, {"match": "flops", "value": 2 * budget, "unit": "training FLOP"}


def _by_time(runs: list[Resolved], data: TaskData, minutes: float | None) -> Budgeted:
    """Seconds of whole training steps, interleaved so that a busy machine slows every run alike."""
    firsts = _first_of_each(runs)
    seconds: dict[str, list[float]] = {label: [] for label in firsts}
    for repeat in range(CALIBRATIONS + 1):
        for label, run in firsts.items():
            took = _seconds_per_step(setup(run.config), run.config, first=repeat * CALIBRATION_STEPS)
            if repeat:  # the first round warms up
                seconds[label].append(took)
    per_step = {label: statistics.median(times) for label, times in seconds.items()}
    budget = 60 * minutes if minutes else per_step[runs[0].label] * runs[0].config["trainer"]["steps"]
    matched = [with_steps(run, int(budget / per_step[run.label]), "matched time") for run in runs]
    return matched, {"match": "time", "value": budget, "unit": "training seconds"}


def _seconds_per_step(made: Setup, config: dict[str, Any], *, first: int) -> float:
    options = {"steps": CALIBRATION_STEPS, "eval_every": CALIBRATION_STEPS, "patience": None, "select": "last"}
    fit = Trainer(**(config["trainer"] | options)).fit(
        made.model,
        made.rule,
        lambda i: made.stream.batch(first + i),
        lambda model: {"primary": 0.0},
        device=str(made.device),
        precision=config["precision"],
    )
    return fit.seconds / fit.steps


def calibrated(config: dict[str, Any], minutes: float) -> dict[str, Any]:
    """``config`` with as many steps as fit in ``minutes``."""
    runs, _ = match([Resolved(config, {}, "run")], load_task(config)[1], "time", minutes)
    return runs[0].config
