"""The chain of timescales as a strategy, against the chain written out weight by weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_stream import tiny_model, tiny_stream
from torch import Tensor

from baselines import STRATEGIES, flat
from neurons.errors import UsageError
from neurons.specs import Batch

NOTHING = Batch(torch.zeros(1, 2, 3), torch.zeros(1, dtype=torch.int64))


def written_out(updates: list[float], *, beakers: int, alpha: float) -> float:
    """u_0 of one weight after ``updates``, by loops."""
    u = [0.0] * beakers
    for update in updates:
        u[0] += update
        levels = [*u, 0.0]
        flows = [alpha * 2.0**-k * (levels[k] - levels[k + 1]) for k in range(beakers)]
        u = [levels[k] + ((flows[k - 1] if k else 0.0) - flows[k]) / 2.0**k for k in range(beakers)]
    return u[0]


def moved(model: Any, by: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by)


def course(strategy: Any, model: Any, steps: list[float], task: Any) -> Tensor:
    """A task in which the optimiser adds ``steps`` to every weight; the weights at its end."""
    strategy.before_task(model, task)
    for step in steps:
        strategy.batch(NOTHING)
        moved(model, step)
    strategy.after_task(model, task)
    return flat.values(model)


@pytest.mark.parametrize("beakers", [1, 3, 5])
def test_every_weight_is_the_first_of_its_chain(beakers: int) -> None:
    stream = tiny_stream()
    model = tiny_model(stream)
    start = flat.values(model)
    strategy = STRATEGIES.build("benna-fusi", beakers=beakers, alpha=0.3, every=1)
    steps = [0.5, -0.2, 0.1, 0.4, 0.0, 0.0]
    found = course(strategy, model, steps[:4], stream.tasks[0])
    wanted = written_out(steps[:4], beakers=beakers, alpha=0.3)
    torch.testing.assert_close(found, start + wanted)
    found = course(strategy, model, steps[4:], stream.tasks[1])  # the chain goes on
    torch.testing.assert_close(found, start + written_out(steps, beakers=beakers, alpha=0.3))


def test_it_flows_once_in_so_many_steps_and_at_the_end_of_a_task() -> None:
    stream = tiny_stream()
    model = tiny_model(stream)
    start = flat.values(model)
    strategy = STRATEGIES.build("benna-fusi", beakers=3, every=3)
    found = course(strategy, model, [0.1, 0.2, 0.3, 0.4], stream.tasks[0])
    torch.testing.assert_close(found, start + written_out([0.6, 0.4], beakers=3, alpha=0.25))


def test_an_old_weight_comes_back_when_a_new_one_stops() -> None:
    """Written long and then overwritten shortly, a weight returns part of the way."""
    course_of_one = [0.1] * 200 + [-1.0]
    ends = [written_out(course_of_one + [0.0] * rest, beakers=6, alpha=0.25) for rest in (0, 20)]
    assert ends[1] - ends[0] > 0.05
    stream = tiny_stream()
    model = tiny_model(stream)
    start = flat.values(model)
    strategy = STRATEGIES.build("benna-fusi", beakers=6, every=1)
    over = course(strategy, model, [0.1] * 200 + [-1.0], stream.tasks[0])
    back = course(strategy, model, [0.0] * 20, stream.tasks[1])
    for found, wanted in zip((over, back), ends, strict=True):
        torch.testing.assert_close(found, start + wanted, rtol=1e-3, atol=1e-4)


def test_state_is_the_chain_and_the_start() -> None:
    stream = tiny_stream()
    model = tiny_model(stream)
    strategy = STRATEGIES.build("benna-fusi", beakers=4)
    assert strategy.memory_bytes() == 0
    count = len(course(strategy, model, [0.1], stream.tasks[0]))
    assert strategy.memory_bytes() == 4 * 5 * count


def test_what_cannot_be_is_refused() -> None:
    for options in ({"beakers": 0}, {"alpha": 1.0}, {"every": 0}):
        with pytest.raises(UsageError, match="benna-fusi"):
            STRATEGIES.build("benna-fusi", **options)
