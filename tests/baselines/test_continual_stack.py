"""Stacked seeds against each seed trained alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_stream import tiny_stream
from torch import Tensor

from baselines import STRATEGIES, flat
from baselines.continual import GradientLearner
from baselines.continual_stack import Stack, unstackable
from learning import RULES
from neurons import MODELS
from neurons.errors import DivergedError
from tasks.continual.protocol import run, run_group

SEEDS = (0, 3, 4)


def learner(stream: Any, name: str, seed: int, *, dropout: float = 0.0, rule: str = "backprop", **options: Any) -> Any:
    torch.manual_seed(seed)
    model = MODELS.build("mlp", input=stream.input, output=stream.output, width=9, layers=2, dropout=dropout)
    # 16 train rows a task in batches of 6: one batch of each epoch is short, at another step for each seed
    given = {"steps": 9, "batch_size": 6, "lr": 0.01, "seed": seed} | options
    if name == "lwf":  # its gradient begins as rounding about 0, which Adam would turn into whole steps
        given["optimizer"] = "sgd"
    built = {"size": 7} if name in ("replay", "a-gem", "der++") else {}
    return GradientLearner(model, RULES.build(rule), STRATEGIES.build(name, **built), **given)


def weights(one: Any) -> Tensor:
    return flat.values(one.model)


def both(name: str, scenario: str = "domain", **options: Any) -> tuple[list[Any], list[Any]]:
    """Outcomes and learners: (alone, stacked)."""
    stream = tiny_stream(scenario)
    alone = [learner(stream, name, seed, **options) for seed in SEEDS]
    together = [learner(stream, name, seed, **options) for seed in SEEDS]
    found = [run(stream, one, every=4) for one in alone]
    stacked = run_group(stream, together, Stack(together).fit, every=4)
    return list(zip(found, stacked, strict=True)), list(zip(alone, together, strict=True))


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
@pytest.mark.parametrize("name", STRATEGIES.names())
def test_every_strategy_is_as_alone(name: str, scenario: str) -> None:
    outcomes, learners = both(name, scenario)
    for one, other in learners:
        torch.testing.assert_close(weights(one), weights(other), atol=2e-5, rtol=1e-4)
    for one, other in outcomes:
        np.testing.assert_allclose(one.R, other.R, atol=1 / 16 + 1e-9)  # one sample at a border
        np.testing.assert_allclose(one.untrained, other.untrained)
        assert [point.step for point in one.curve] == [point.step for point in other.curve]
        assert one.memory == other.memory
    assert not torch.allclose(weights(learners[0][1]), weights(learners[1][1]), atol=1e-2)


@pytest.mark.parametrize("name", ["naive", "a-gem", "der++", "si"])
@pytest.mark.parametrize(
    "options",
    [{"clip": 0.3}, {"dropout": 0.4}, {"reset": False}, {"optimizer": "sgd", "clip": 0.5, "dropout": 0.2}],
    ids=str,
)
def test_clipping_dropout_and_moments_are_as_alone(name: str, options: dict[str, Any]) -> None:
    """Clipping over all seeds at once, or masks drawn in one go, would be far away."""
    _, learners = both(name, **options)
    for one, other in learners:
        torch.testing.assert_close(weights(one), weights(other), atol=2e-5, rtol=1e-4)


def test_a_seed_that_diverges_is_named() -> None:
    stream = tiny_stream("domain")
    members = [learner(stream, "naive", seed) for seed in SEEDS]
    with torch.no_grad():
        next(members[1].model.parameters())[0, 0] = torch.nan
    with pytest.raises(DivergedError, match="seed 3"):
        run_group(stream, members, Stack(members).fit)


def test_what_cannot_be_stacked_says_why() -> None:
    stream = tiny_stream("domain")
    assert unstackable(learner(stream, "naive", 0)) is None
    assert "backprop" in str(unstackable(learner(stream, "naive", 0, rule="predictive-coding")))
    other = learner(stream, "naive", 0)
    other.model = MODELS.build("transformer", input=stream.input, output=stream.output)
    assert "mlp" in str(unstackable(other))
