"""Reservoir, replay, DER++, A-GEM and XdG against their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from tiny_stream import tiny_learner, tiny_model, tiny_stream, whole
from torch.nn import functional as F

from baselines import flat
from baselines.active import ActiveLoss
from baselines.reservoir import Reservoir, joined, reservoir_places
from baselines.strategies.agem import AGEM, projected
from baselines.strategies.derpp import DERPP
from baselines.strategies.replay import Replay
from baselines.strategies.xdg import XDG
from neurons.errors import UsageError
from neurons.specs import Batch, Context
from tasks.batches import BatchStream
from tasks.continual.protocol import run


def numbered(start: int, count: int) -> Batch:
    numbers = torch.arange(start, start + count)
    return Batch(numbers.float().reshape(-1, 1, 1), numbers)


@pytest.mark.parametrize(("capacity", "items", "size"), [(6, 30, 4), (6, 30, 30), (2, 6, 1), (2, 6, 4)])
def test_the_reservoir_is_uniform(capacity: int, items: int, size: int) -> None:
    """Chi-square over 1,000 reservoirs of what was offered ``size`` items at a time."""
    torch.manual_seed(0)
    counts = np.zeros(items)
    for _ in range(1000):
        reservoir = Reservoir(capacity)
        for start in range(0, items, size):
            reservoir.offer(numbered(start, min(size, items - start)))
        held = reservoir.columns["y"].numpy()
        assert len(set(held)) == capacity
        counts[held] += 1
    # inclusion is without replacement: variances are (1 - capacity / items) n / (n - 1) of the multinomial's
    expected = 1000 * capacity / items
    statistic = ((counts - expected) ** 2 / expected).sum() / (1 - capacity / items) * (items - 1) / items
    assert 1e-3 < stats.chi2.sf(statistic, items - 1) < 1 - 1e-3


def test_a_reservoir_larger_than_what_it_is_offered_holds_all_once() -> None:
    reservoir = Reservoir(50)
    for start in range(0, 20, 8):
        reservoir.offer(numbered(start, min(8, 20 - start)))
    assert len(reservoir) == 20
    assert sorted(reservoir.draw(99)[0].y.tolist()) == list(range(20))
    with pytest.raises(UsageError, match="at least 1 sample, not 0"):
        Reservoir(0)


@pytest.mark.parametrize("size", [10**4, 10**12])
@pytest.mark.parametrize(("strategy", "held"), [(Replay, 48), (AGEM, 48), (DERPP, 3 * 12 * 8)])
def test_a_buffer_larger_than_the_data_holds_all_of_it_and_no_more(strategy: Any, held: int, size: int) -> None:
    """A whole stream: every row of every task, in the memory that they take. DER++ keeps a row each time it is shown,
    with the logits of that moment; the others once."""
    stream = tiny_stream("class")
    learner = tiny_learner(stream, strategy(size=size))
    found = run(stream, learner)
    columns = learner.strategy.state_dict()
    rows = torch.cat([whole(task).x for task in stream.tasks])
    assert (len(columns["x"]), len(rows)) == (held, 48)
    assert {row.numpy().tobytes() for row in columns["x"]} == {row.numpy().tobytes() for row in rows}
    assert found.memory["buffer"] == sum(column.nbytes for column in columns.values())
    assert columns["x"].nbytes == held * 6 * 4
    small = tiny_learner(stream, strategy(size=held))
    np.testing.assert_array_equal(found.R, run(stream, small).R)  # room that is never needed changes nothing


@pytest.mark.parametrize("strategy", [Replay, DERPP, AGEM])
def test_a_buffer_of_nothing_is_refused(strategy: Any) -> None:
    with pytest.raises(UsageError, match="at least 1 sample, not 0"):
        strategy(size=0)


def test_later_items_push_out_earlier_ones_of_the_same_batch() -> None:
    torch.manual_seed(0)
    for _ in range(50):
        rows, places = reservoir_places(3, 40, 2)
        assert len(set(places.tolist())) == len(places) <= 2
        assert len(rows) == len(places)


def test_masks_travel_with_their_rows_and_widths_differ() -> None:
    def tokens(length: int, label: int) -> Batch:
        x = torch.full((2, length), label + 1)
        return Batch(x, torch.tensor([label, label]), torch.ones(2, length, dtype=torch.bool))

    reservoir = Reservoir(6)
    for length, label in ((3, 0), (5, 1), (2, 2)):
        reservoir.offer(tokens(length, label))
    found, _ = reservoir.draw(6)
    assert found.mask is not None
    for x, y, mask in zip(found.x, found.y, found.mask, strict=True):
        length = {0: 3, 1: 5, 2: 2}[int(y)]
        assert mask.tolist() == [True] * length + [False] * (5 - length)
        assert x[:length].tolist() == [int(y) + 1] * length
    both = joined(tokens(7, 0), found)
    assert both.mask is not None
    assert both.x.shape == both.mask.shape == (8, 7)
    assert not both.mask[2:, 5:].any()


def test_replay_joins_as_many_stored_samples_as_the_batch_holds() -> None:
    stream = tiny_stream("class")
    replay = Replay(size=10)
    torch.manual_seed(0)
    for task in stream.tasks[:2]:
        replay.before_task(tiny_model(stream), task)
        batches = BatchStream(task.split("train"), task.input, batch_size=8, seed=0)
        for i in range(6):  # three epochs: only the first is offered
            given = batches.batch(i)
            stored = len(replay.buffer)
            batch = replay.batch(given)
            assert len(batch) == 8 + min(8, stored)
            assert torch.equal(batch.x[:8], given.x)
            held = {(x.numpy().tobytes(), int(y)) for x, y in zip(batch.x[8:], batch.y[8:], strict=True)}
            known = [whole(t) for t in stream.tasks[: task.index + 1]]
            assert held <= {(x.numpy().tobytes(), int(y)) for b in known for x, y in zip(b.x, b.y, strict=True)}
    assert replay.buffer.seen == 32
    assert len(replay.buffer) == 10
    large = Replay(size=1000)
    learner = tiny_learner(stream, large)
    for task in stream.tasks:
        learner.fit(task.split("train"), task, lambda step: None)
    assert len({x.numpy().tobytes() for x in large.buffer.draw(1000)[0].x}) == 48 == len(large.buffer)


def test_derpp_stores_the_logits_of_the_moment_of_writing() -> None:
    stream = tiny_stream("class")
    model, task = tiny_model(stream, dropout=0.5).train(), stream.tasks[0]
    derpp = DERPP(size=100)
    derpp.before_task(model, task)
    batches = BatchStream(task.split("train"), task.input, batch_size=8, seed=0)
    wanted = []
    for i in range(2):
        batch = batches.batch(i)
        derpp.batch(batch)
        assert model.training
        with torch.no_grad():
            wanted.append(model.eval()(batch))
            model.train()
            for parameter in model.parameters():  # the model moves on, what is stored does not
                parameter.add_(torch.randn_like(parameter))
    torch.testing.assert_close(derpp.buffer.columns["logits"][:16], torch.cat(wanted))


@pytest.mark.parametrize("scenario", ["class", "task"])
def test_derpp_loss_is_its_equation(scenario: str) -> None:
    stream = tiny_stream(scenario)
    model = tiny_model(stream)
    derpp = DERPP(size=5, alpha=0.3, beta=0.8)
    derpp.before_task(model, stream.tasks[0])
    derpp.batch(whole(stream.tasks[0]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    current = whole(stream.tasks[1])
    batch = derpp.batch(current)
    n, m = len(current), 5
    assert len(batch) == n + 2 * m
    x = model.stages[1](model.stages[0](batch.x, Context()), Context())
    called: list[int] = []
    model.readout.register_forward_hook(lambda stage, arguments, out: called.append(len(out)))
    seen = derpp.loss(ActiveLoss(model.readout, torch.ones(6, 6, dtype=torch.bool)))(x, batch)
    assert called == [len(batch)]  # once, whole and in order: feedback alignment listens to the readout
    logits = model(batch)
    stored = derpp.wanted
    assert stored is not None
    assert stored.shape == (m, 6)
    wanted = F.cross_entropy(logits[:n], current.y)
    wanted = wanted + 0.3 * F.mse_loss(logits[n : n + m], stored)
    wanted = wanted + 0.8 * F.cross_entropy(logits[n + m :], batch.y[n + m :])
    torch.testing.assert_close(seen.objective / seen.count, wanted)
    torch.testing.assert_close(seen.reported, F.cross_entropy(logits[:n], current.y, reduction="sum").detach())


def test_the_projection_never_goes_against_the_reference() -> None:
    rng = torch.Generator().manual_seed(0)
    gradients, references = (torch.randn(200, 7, generator=rng, dtype=torch.float64) for _ in range(2))
    found = projected(gradients, references)
    for g, r, p in zip(gradients, references, found, strict=True):
        if float(g @ r) >= 0:
            assert torch.equal(p, g)
        else:  # the nearest point of the half-space p . r >= 0 lies on its border
            assert abs(float(p @ r)) < 1e-12
            basis = torch.linalg.svd(r[None])[2][1:]  # what is orthogonal to r
            torch.testing.assert_close(p, basis.T @ (basis @ g))
    assert torch.equal(projected(gradients[0], torch.zeros(7, dtype=torch.float64)), gradients[0])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_agem_projects_on_the_gradient_of_what_is_stored(sign: float) -> None:
    stream = tiny_stream("task")
    model, task = tiny_model(stream), stream.tasks[0]
    agem = AGEM(size=100)
    agem.after_task(model, task)
    stored = whole(task)
    assert len(agem.buffer) == len(stored)
    agem.loss(model.readout.loss)
    F.cross_entropy(model(stored), stored.y).backward()
    reference = flat.gradient(model)
    torch.manual_seed(0)
    own = sign * reference + 0.1 * reference.norm() * F.normalize(torch.randn_like(reference), dim=0)
    flat.set_gradient(model, own)
    agem.gradient(model, stored)  # draws as many as are stored: all of them
    found = flat.gradient(model)
    assert float(found @ reference) >= -1e-6
    if sign > 0:
        torch.testing.assert_close(found, own)
    else:
        torch.testing.assert_close(found, own - (own @ reference) / (reference @ reference) * reference)


def test_agem_holds_past_tasks_in_equal_measure() -> None:
    torch.manual_seed(0)
    stream = tiny_stream("class", rows=600)
    agem = AGEM(size=150)
    for task in stream.tasks:
        agem.after_task(tiny_model(stream), task)
    counts = np.bincount(agem.buffer.columns["y"].numpy() // 2, minlength=3)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_gates_are_disjoint_and_fixed() -> None:
    gates = torch.stack([XDG(seed=1).gate(0, 10, task, 3) for task in range(3)])
    assert gates.sum(0).tolist() == [1] * 10  # each unit belongs to one task
    assert sorted(gates.sum(1).tolist()) == [3, 3, 4]
    assert torch.equal(gates[1], XDG(seed=1).gate(0, 10, 1, 3))
    assert not torch.equal(gates[1], XDG(seed=2).gate(0, 10, 1, 3))
    assert not torch.equal(gates[1], XDG(seed=1).gate(1, 10, 1, 3))
    shares = torch.stack([XDG(share=0.2).gate(0, 50, task, 4) for task in range(4)])
    assert shares.sum(1).tolist() == [10] * 4
    assert len({tuple(gate.tolist()) for gate in shares}) == 4
    with pytest.raises(UsageError, match="2 units cannot be dealt out to 3 tasks"):
        XDG().gate(0, 2, 0, 3)
    with pytest.raises(UsageError, match="share"):
        XDG(share=0.0)


def test_gated_units_are_silent_and_the_old_task_stays_bit_by_bit() -> None:
    """Own units and own outputs: with disjoint gates nothing that a later task trains touches an earlier one."""
    stream = tiny_stream("task")
    learner = tiny_learner(stream, XDG())
    answers = []
    for task in stream.tasks:
        learner.fit(task.split("train"), task, lambda step: None)
        answers.append(learner.predict(whole(stream.tasks[0]), stream.tasks[0])[:, :2])
    heard: list[Any] = []
    learner.model.stages[1].register_forward_hook(lambda stage, arguments, x: heard.append((arguments[0], x)))
    learner.predict(whole(stream.tasks[0]), stream.tasks[0])
    for earlier in answers[1:]:
        assert torch.equal(earlier, answers[0])
    x, y = heard[-1]
    for stage, values in enumerate((x, y)):
        closed = ~XDG().gate(stage, 9, 0, 3)
        assert (values[:, closed] == 0).all()
        assert (values[:, ~closed] != 0).any()
    with pytest.raises(UsageError, match="must be told the task"):
        learner.predict(whole(stream.tasks[0]), None)
