"""The gradient learner against a loop in plain torch, and the loss over active outputs against its definition."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from tiny_stream import tiny_learner, tiny_model, tiny_stream, whole
from torch.nn import functional as F

from baselines import STRATEGIES
from baselines.active import ActiveLoss
from learning.hooks import Strategy
from learning.seeds import step_seed
from neurons.errors import UsageError
from neurons.specs import Batch
from tasks.batches import BatchStream
from tasks.continual.protocol import run


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_naive_is_adam_on_one_task_after_the_other(scenario: str, reset: bool) -> None:
    stream = tiny_stream(scenario)
    learner = tiny_learner(stream, STRATEGIES.build("naive"), seed=3, reset=reset)
    model = tiny_model(stream).double()
    learner.model.double()
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    for task in stream.tasks:
        split = task.split("train")
        split = type(split)(np.asarray(split.inputs, dtype=np.float64), split.labels)
        learner.fit(split, task, lambda step: None)
        if reset:
            adam = torch.optim.Adam(model.parameters(), lr=0.01)
        batches = BatchStream(split, task.input, batch_size=8, seed=step_seed(3, task.index))
        allowed = {
            "task": list(task.outputs),
            "domain": [0, 1],
            "class": [c for earlier in stream.tasks[: task.index + 1] for c in earlier.outputs],
        }[scenario]
        for i in range(12):
            batch = batches.batch(i)
            target = torch.tensor([allowed.index(int(label)) for label in batch.y])
            adam.zero_grad()
            F.cross_entropy(model(batch)[:, allowed], target).backward()
            adam.step()
    for mine, theirs in zip(learner.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-7)


def test_samples_of_different_heads_compete_in_their_own() -> None:
    stream = tiny_stream("task")
    model = tiny_model(stream)
    first, third = whole(stream.tasks[0]), whole(stream.tasks[2])
    x, y = torch.cat([first.x[:3], third.x[:2]]), torch.cat([first.y[:3], third.y[:2]])
    loss = ActiveLoss(model.readout, torch.from_numpy(stream.tasks[2].active))
    seen = loss(
        model.stages[1](model.stages[0](x, model.context(Batch(x, y))), model.context(Batch(x, y))), Batch(x, y)
    )
    logits = model(Batch(x, y))
    wanted = F.cross_entropy(logits[:3, 0:2], y[:3], reduction="sum")
    wanted = wanted + F.cross_entropy(logits[3:, 4:6], y[3:] - 4, reduction="sum")
    torch.testing.assert_close(seen.objective, wanted)
    assert seen.count == 5


@pytest.mark.parametrize(("name", "rows"), [("naive", 16), ("cumulative", 48), ("joint", 48), ("replay", 16)])
def test_every_strategy_takes_the_steps_of_the_current_task(name: str, rows: int) -> None:
    """16 train rows a task in batches of 8: three epochs are six steps, from however many rows they are drawn."""
    stream = tiny_stream()
    steps: list[int] = []
    learner = tiny_learner(stream, STRATEGIES.build(name), steps=None, epochs=3)
    given: list[int] = []
    fit = learner.fit

    def spy(data: Any, task: Any, on_step: Any) -> None:
        given.append(len(data))
        fit(data, task, lambda step: (steps.append(step), on_step(step))[1])

    learner.fit = spy  # type: ignore[method-assign]
    run(stream, learner)
    assert steps == [1, 2, 3, 4, 5, 6] * 3
    assert given[-1] == rows


def test_a_look_at_every_step_does_not_change_the_course() -> None:
    """Dropout and XdG's gates make the test sharp: evaluation draws nothing and puts the gate back."""
    for name in ("xdg", "der++", "lwf", "si"):
        weights = []
        for every in (None, 1):
            stream = tiny_stream("task")
            learner = tiny_learner(stream, STRATEGIES.build(name), dropout=0.3)
            run(stream, learner, every=every)
            weights.append(torch.cat([parameter.detach().flatten() for parameter in learner.model.parameters()]))
        assert torch.equal(*weights), name


def test_a_question_about_another_task_puts_the_gate_back() -> None:
    stream = tiny_stream("task")
    first, weights = stream.tasks[0], []
    for asks in (False, True):
        learner = tiny_learner(stream, STRATEGIES.build("xdg"))
        for task in stream.tasks:
            ask = partial(learner.predict, whole(first), first) if asks else int
            learner.fit(task.split("train"), task, lambda step, ask=ask: ask())
        weights.append(torch.cat([parameter.detach().flatten() for parameter in learner.model.parameters()]))
    assert torch.equal(*weights)


def test_memory_is_told_apart() -> None:
    stream = tiny_stream(rows=360)  # more than a buffer holds
    parameters = sum(parameter.numel() for parameter in tiny_model(stream).parameters())
    bytes_of = {}
    for name in ("naive", "ewc", "replay", "der++", "si"):
        learner = tiny_learner(stream, STRATEGIES.build(name))
        bytes_of[name] = run(stream, learner).memory
    assert bytes_of["naive"] == {"parameters": 4 * parameters, "state": 0, "buffer": 0}
    assert bytes_of["ewc"] == {"parameters": 4 * parameters, "state": 8 * parameters, "buffer": 0}
    assert bytes_of["si"] == bytes_of["ewc"]
    sample = 4 * 6 + 8  # six float32 features and an int64 label
    assert bytes_of["replay"]["buffer"] == 100 * sample + 8
    assert bytes_of["der++"]["buffer"] == 100 * (sample + 4 * 6) + 8


def test_a_buffer_takes_the_memory_of_what_it_holds() -> None:
    stream = tiny_stream()  # 48 samples in all
    held = run(stream, tiny_learner(stream, STRATEGIES.build("replay"))).memory
    assert held["buffer"] == 48 * (4 * 6 + 8) + 8


def test_what_cannot_learn_a_stream_is_refused() -> None:
    stream = tiny_stream()
    with pytest.raises(UsageError, match="epochs is at least 1"):
        tiny_learner(stream, Strategy(), epochs=0)
