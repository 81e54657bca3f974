"""What a configuration builds: task, data, model, rule, strategy, trainer and batches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from baselines import STRATEGIES, measure
from baselines.blind import Blind
from learning import RULES
from learning.hooks import Strategy
from learning.precision import resolve_device
from learning.rule import Rule
from learning.seeds import seed_everything
from learning.trainer import Trainer
from neurons import MODELS
from neurons.errors import UsageError
from neurons.model import Model
from tasks import TASKS
from tasks.batches import BatchStream
from tasks.task import Task, TaskData


@dataclass
class Setup:
    """What a configuration builds."""

    task: Task
    data: TaskData
    model: Model
    rule: Rule
    strategy: Strategy
    trainer: Trainer
    stream: BatchStream
    device: torch.device


@cache
def _load(name: str, options: str, data_dir: str | None) -> tuple[Task, TaskData, str]:
    task = TASKS.build(name, **json.loads(options))
    data = task.load(data_dir)
    return task, data, data.split_hash


def load_task(config: dict[str, Any]) -> tuple[Task, TaskData, str]:
    """The configured task, its data and their hash; loaded once per process."""
    task = config["task"]
    return _load(task["name"], json.dumps(task["options"], sort_keys=True), config["data_dir"])


def setup(config: dict[str, Any], *, check: bool = True) -> Setup:
    """Model, rule, strategy, trainer and batches of ``config``, seeded; UsageError if the rule cannot train the model
    (unless ``check`` is off)."""
    task, data, _ = load_task(config)
    seed_everything(config["seed"])
    device = resolve_device(config["device"])
    name, options = config["model"]["name"], config["model"]["options"]
    try:
        model = MODELS.build(name, input=data.input, output=data.output, **options)
    except (ValueError, RuntimeError, ArithmeticError) as error:  # a width of 0, say; UsageError is a ValueError
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"model '{name}' cannot be built with these options: {error}") from error
    if config.get("blind_beyond") is not None:
        model = Blind(model, beyond=config["blind_beyond"])
    rule = RULES.build(config["rule"]["name"], **config["rule"]["options"])
    reason = rule.supports(model)
    if check and reason is not None:
        raise UsageError(f"rule '{rule.name}' cannot train model '{model.name}': {reason}")
    model.to(device)
    strategy = _strategy(config)
    trainer = Trainer(**config["trainer"])
    stream = BatchStream(data.train, data.input, batch_size=trainer.batch_size, seed=config["seed"])
    return Setup(task, data, model, rule, strategy, trainer, stream, device)


def _strategy(config: dict[str, Any]) -> Strategy:
    """The strategy of a single task, which is naive: every other acts on the tasks that came before (replay's buffer
    opens, and EWC's springs are set, at a task's border), so here it would be naive under another name, or fail."""
    name = config["strategy"]["name"]
    if name != "naive":
        raise UsageError(
            f"strategy '{name}' is for a stream of tasks; one task has nothing to forget. "
            f"Try: neurons continual permuted-digits --strategies naive,{name}"
        )
    strategy: Strategy = STRATEGIES.build(name, **config["strategy"]["options"])
    return strategy


def macs_per_step(made: Setup, batches: int = 8) -> float:
    """Multiply-accumulates of a training step, mean over batches spread evenly over the first epoch."""
    places = np.linspace(0, made.stream.steps_per_epoch - 1, batches).round().astype(int)
    found = [measure.training_macs(made.rule, made.model, made.stream.batch(int(i)).to(made.device)) for i in places]
    return float(np.mean(found))


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Run with ``count`` torch threads, then as before."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
