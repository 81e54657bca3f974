"""What every registered strategy promises, on a stream that trains in milliseconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_stream import tiny_learner, tiny_stream

from baselines import STRATEGIES
from learning import RULES
from learning.hooks import Strategy
from tasks.continual.protocol import Outcome, run

NAMES = STRATEGIES.names()
SCENARIOS = ("task", "domain", "class")


def outcome(name: str, scenario: str, **options: Any) -> tuple[Outcome, Any]:
    stream = tiny_stream(scenario)
    learner = tiny_learner(stream, STRATEGIES.build(name), **options)
    return run(stream, learner), learner


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", NAMES)
def test_learns_every_scenario_and_repeats_itself(name: str, scenario: str) -> None:
    (first, learner), (again, _) = (outcome(name, scenario, dropout=0.1) for _ in range(2))
    np.testing.assert_array_equal(first.R, again.R)
    assert all(torch.isfinite(parameter).all() for parameter in learner.model.parameters())
    assert first.summary()["learning_accuracy"] > 0.5
    assert first.memory == learner.memory()
    assert first.sees_task_id is (scenario == "task" or STRATEGIES.get(name).needs_task)


@pytest.mark.parametrize("name", NAMES)
def test_another_seed_is_another_course(name: str) -> None:
    weights = []
    for seed in (0, 1):
        _, learner = outcome(name, "class", seed=seed)
        weights.append(torch.cat([parameter.flatten() for parameter in learner.model.parameters()]))
    assert not torch.equal(*weights)


@pytest.mark.parametrize("name", NAMES)
def test_state_round_trip_and_bytes(name: str) -> None:
    """A stream that goes on from a saved state ends where the unbroken one does."""
    stream = tiny_stream("class")
    whole, broken = (tiny_learner(stream, STRATEGIES.build(name)) for _ in range(2))
    for learner in (whole, broken):
        for task in stream.tasks[:2]:
            learner.fit(task.split("train"), task, lambda step: None)
    state = {key: tensor.clone() for key, tensor in broken.strategy.state_dict().items()}
    assert broken.strategy.memory_bytes() == sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    weights = broken.model.state_dict()
    broken = tiny_learner(stream, STRATEGIES.build(name))
    broken.model.load_state_dict(weights)
    broken.strategy.load_state_dict(state)
    for learner in (whole, broken):
        learner.fit(stream.tasks[2].split("train"), stream.tasks[2], lambda step: None)
    for one, other in zip(whole.model.parameters(), broken.model.parameters(), strict=True):
        assert torch.equal(one, other)
    for key, tensor in whole.strategy.state_dict().items():
        assert torch.equal(tensor, broken.strategy.state_dict()[key])


@pytest.mark.parametrize("name", NAMES)
def test_options_are_stored_unchanged(name: str) -> None:
    strategy = STRATEGIES.build(name)
    assert isinstance(strategy, Strategy)
    for option in STRATEGIES.entry(name).options:
        assert getattr(strategy, option.name) == option.default


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("xdg", "benna-fusi")])
def test_the_first_task_is_learned_as_without_a_strategy(name: str) -> None:
    """There is nothing to protect yet; replay from the first task, and rows of other tasks, are the exceptions, as are
    gates and chains, which are no protection of a task but part of the network."""
    strategy = STRATEGIES.build(name)
    if strategy.data != "current" or name in ("replay", "der++"):
        pytest.skip("sees other rows from the start")
    stream = tiny_stream("domain")
    learners = [tiny_learner(stream, each) for each in (strategy, STRATEGIES.build("naive"))]
    for learner in learners:
        learner.fit(stream.tasks[0].split("train"), stream.tasks[0], lambda step: None)
    for one, other in zip(*(learner.model.parameters() for learner in learners), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("rule", RULES.names())
@pytest.mark.parametrize("name", ["a-gem", "der++", "ewc", "lwf", "xdg"])  # of each way to change a step, one
def test_goes_with_every_rule(name: str, rule: str) -> None:
    stream = tiny_stream("class")
    learner = tiny_learner(stream, STRATEGIES.build(name), steps=4)
    learner.rule = RULES.build(rule)
    if learner.rule.supports(learner.model) is not None:
        pytest.skip("the rule cannot train an mlp")
    found = run(stream, learner)
    assert np.isfinite(found.R).all()
    if name != "xdg":  # it draws nothing, the others do something under this rule
        plain = tiny_learner(stream, STRATEGIES.build("naive"), steps=4)
        plain.rule = RULES.build(rule)
        run(stream, plain)
        pairs = zip(learner.model.parameters(), plain.model.parameters(), strict=True)
        assert any(not torch.equal(one, other) for one, other in pairs)
