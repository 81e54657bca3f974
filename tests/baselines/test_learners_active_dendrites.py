"""Active dendrites: the context of a sample is inferred from its own inputs, and nothing else of the past is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_stream import tiny_stream, whole
from torch.nn import functional as F

from baselines import LEARNERS
from neurons.errors import UsageError
from neurons.specs import Batch


def taught(stream: Any, **options: Any) -> Any:
    given = {"width": 20, "winners": 0.5, "epochs": 2, "batch_size": 8} | options
    learner = LEARNERS.build("active-dendrites", input=stream.input, output=stream.output, seed=0, **given)
    for task in stream.tasks:
        learner.fit(task.split("train"), task, lambda step: None)
    return learner


def test_a_sample_is_answered_in_the_context_of_the_nearest_mean() -> None:
    stream = tiny_stream()
    learner = taught(stream)
    means = torch.stack([whole(task).x.flatten(1).mean(0) for task in stream.tasks])
    several = [whole(task, "test") for task in stream.tasks]
    batch = Batch(torch.cat([one.x for one in several]), torch.cat([one.y for one in several]))
    nearest = (means[:, None] - batch.x.flatten(1)).square().sum(2).argmin(0)
    assert len(nearest.unique()) == 3
    for x, place, scores in zip(batch.x.flatten(1), nearest, learner.predict(batch, None), strict=True):
        context = F.normalize(means[place], dim=0)
        first, second, head = learner.layers
        torch.testing.assert_close(scores, head(second(first(x[None], context), context))[0])


def test_the_fused_optimiser_is_adam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused optimisers have been seen to read a gradient in the wrong order."""
    fused = taught(tiny_stream()).layers.state_dict()
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda parameters, lr, fused: adam(parameters, lr=lr))
    plain = taught(tiny_stream()).layers.state_dict()
    for name, value in fused.items():
        torch.testing.assert_close(value, plain[name], rtol=1e-4, atol=1e-6)


def test_half_of_the_units_win_and_one_mean_a_task_is_kept() -> None:
    stream = tiny_stream()
    learner = taught(stream)
    first = learner.layers[0](whole(stream.tasks[0]).x.flatten(1), torch.ones(6))
    assert int((first != 0).sum(1).max()) == 10
    assert first.shape == (16, 20)
    assert learner.memory()["state"] == 3 * 6 * 4
    assert learner.layers[0].segment_weight.shape == (20, 3, 6)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="winners is a share"):
        taught(tiny_stream(), winners=0.0)
