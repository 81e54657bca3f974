"""What every registered learner promises, on a stream that trains in milliseconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_stream import tiny_stream, whole

from baselines import LEARNERS
from tasks.continual.learner import Learner
from tasks.continual.protocol import run

NAMES = LEARNERS.names()
TINY: dict[str, dict[str, Any]] = {
    "active-dendrites": {"width": 40, "winners": 0.3, "epochs": 30, "lr": 0.02, "batch_size": 8},
    "sdr-memory": {"units": 200},
}


def build(name: str, stream: Any, seed: int = 0) -> Any:
    return LEARNERS.build(name, input=stream.input, output=stream.output, seed=seed, **TINY.get(name, {}))


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
@pytest.mark.parametrize("name", NAMES)
def test_learns_every_scenario_and_repeats_itself(name: str, scenario: Any) -> None:
    stream = tiny_stream(scenario)
    first, again = (run(stream, build(name, stream)) for _ in range(2))
    np.testing.assert_array_equal(first.R, again.R)
    assert first.summary()["learning_accuracy"] > 0.5
    assert first.sees_task_id is (scenario == "task")
    assert first.memory["buffer"] == 0
    assert set(first.memory) == {"parameters", "state", "buffer"}


@pytest.mark.parametrize("name", NAMES)
def test_a_look_at_every_step_does_not_change_the_course(name: str) -> None:
    stream = tiny_stream()
    np.testing.assert_array_equal(run(stream, build(name, stream), every=1).R, run(stream, build(name, stream)).R)


@pytest.mark.parametrize("name", NAMES)
def test_another_seed_is_another_course(name: str) -> None:
    stream, scores = tiny_stream(), []
    for seed in (0, 1):
        learner = build(name, stream, seed)
        learner.fit(stream.tasks[0].split("train"), stream.tasks[0], lambda step: None)
        scores.append(learner.predict(whole(stream.tasks[0]), None))
    assert not torch.equal(*scores)


@pytest.mark.parametrize("name", NAMES)
def test_options_are_stored_unchanged(name: str) -> None:
    learner = LEARNERS.build(name, input=tiny_stream().input, output=tiny_stream().output, seed=0)
    assert isinstance(learner, Learner)
    for option in LEARNERS.entry(name).options:
        assert getattr(learner, option.name) == option.default
