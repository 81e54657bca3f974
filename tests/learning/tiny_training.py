"""A training run of a second or two with everything a checkpoint must carry: dropout, running statistics, momentum,
rule state and strategy state. Tests import it; ``train`` also runs in processes that a test kills."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from pathlib import Path

import torch
from torch import nn

from learning.hooks import Strategy
from learning.rule import Rule, StepReport
from learning.run import RunDirectory
from learning.seeds import seed_everything, step_seed
from learning.trainer import Trainer
from neurons.model import Model
from neurons.readouts import LabelReadout
from neurons.specs import Batch, InputSpec, Loss, OutputSpec

INPUT, OUTPUT = InputSpec("features", length=3, size=4), OutputSpec("label", size=3)


class Hidden(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.linear = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(3)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, context):
        return self.dropout(torch.tanh(self.norm(self.linear(x))))


class TinyModel(Model):
    def __init__(self, *, dropout=0.2, seed=0):
        super().__init__(INPUT, OUTPUT)
        seed_everything(seed)
        self.stages = nn.ModuleList([Hidden(dropout), LabelReadout(width=8, classes=3)])


class Reference(Rule):
    """Backprop, with a state that changes its gradient: it scales by a factor that halves towards one."""

    name = "reference"

    def __init__(self, stateful=False):
        self.extra = torch.tensor(float(stateful))

    def step(self, model, batch, *, loss=None, update=None):
        context = model.context(batch)
        x = batch.x
        for stage in model.stages[:-1]:
            x = stage(x, context)
        seen = (loss or model.readout.loss)(x, batch)
        (seen.objective / seen.count * (1 + self.extra)).backward()
        self.extra = self.extra / 2
        total = seen.objective.detach()
        return StepReport(Loss(total, seen.reported, seen.count), scalars={"objective": float(total)})

    def state_dict(self):
        return {"extra": self.extra}

    def load_state_dict(self, state):
        self.extra = state["extra"]


class Anchor(Strategy):
    """Pulls the weights towards a running mean of the past ones."""

    name = "anchor"

    def __init__(self):
        self.mean = {}

    def gradient(self, model, batch):
        for name, parameter in model.named_parameters():
            mean = self.mean.get(name, torch.zeros_like(parameter))
            parameter.grad += 0.1 * (parameter.detach() - mean)
            self.mean[name] = 0.9 * mean + 0.1 * parameter.detach()

    def state_dict(self):
        return dict(self.mean)

    def load_state_dict(self, state):
        self.mean = dict(state)


def batch_at(i, size=16):
    generator = torch.Generator().manual_seed(step_seed(7, i))
    x = torch.randn(size, 3, 4, generator=generator)
    return Batch(x, x.mean(1)[:, :3].argmax(1))


def evaluate(model):
    """Accuracy and loss on a fixed batch; draws from the global generator, which must not matter.

    ``primary`` is a function of the model that is best after 40 steps, so that best and last weights differ.
    """
    assert not model.training
    torch.rand(5)
    batch = batch_at(10**6, size=64)
    loss = model.loss(batch)
    hits = (model(batch).argmax(1) == batch.y).float().mean()
    age = int(model.stages[0].norm.num_batches_tracked)
    return {"primary": -abs(age - 40), "accuracy": float(hits), "loss": float(loss.reported) / loss.count}


@contextlib.contextmanager
def foreground():
    """Signals as a program in the foreground has them; pytest itself may run in the background, without Ctrl-C."""
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


CONFIG = {"trainer": {"steps": 60, "lr": 0.01}, "task": {"name": "tiny"}}


def fit(run=None, *, resume=False, batches=batch_at, trainer=None, **arguments):
    """The reference training; returns model and report."""
    torch.set_num_threads(1)
    model = TinyModel()
    options = {"steps": 60, "batch_size": 16, "lr": 0.01, "eval_every": 20, "checkpoint_every": 5, **(trainer or {})}
    arguments = {"strategy": Anchor(), "seed": 3, "evaluate": evaluate, **arguments}
    rule = arguments.pop("rule", None) or Reference(stateful=True)
    report = Trainer(**options).fit(model, rule, batches, run=run, resume=resume, **arguments)
    return model, report


def train(out, pause=0.0):
    """One attempt at the reference training in ``out``, resuming whatever is there; ``pause`` seconds per batch."""

    def batches(i):
        time.sleep(pause)
        return batch_at(i)

    run = RunDirectory.create(out, CONFIG, resume=True)
    _, report = fit(run, resume=True, batches=batches)
    run.write_result({"schema": 1, "status": "complete", "best": report.best_value})


def rows_without_clock(path):
    """The rows of metrics.jsonl with nothing left out but wall-clock time."""
    lines = (Path(path) / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def assert_same_tensors(one, two):
    """Bitwise equality by name."""
    assert one.keys() == two.keys()
    for name in one:
        assert one[name].dtype == two[name].dtype, name
        same = one[name].reshape(-1).view(torch.uint8).equal(two[name].reshape(-1).view(torch.uint8))
        assert same, name
