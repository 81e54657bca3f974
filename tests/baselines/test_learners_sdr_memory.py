"""The SDR memory against scikit-learn's naive Bayes and ridge regression, and its counts under any order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.naive_bayes import MultinomialNB
from tiny_stream import tiny_stream, whole

from baselines import LEARNERS
from baselines.learners.expansion import SparseExpansion, share_of
from neurons.errors import UsageError
from neurons.specs import InputSpec
from tasks.continual.protocol import run
from tasks.task import Split

SMALL = {"units": 60, "winners": 0.1}


def memory(stream: Any, **options: Any) -> Any:
    return LEARNERS.build("sdr-memory", input=stream.input, output=stream.output, seed=0, **SMALL | options)


def taught(stream: Any, order: tuple[int, ...] = (0, 1, 2), **options: Any) -> Any:
    learner = memory(stream, **options)
    for index in order:
        learner.fit(stream.tasks[index].split("train"), stream.tasks[index], lambda step: None)
    return learner


def together(stream: Any) -> tuple[torch.Tensor, torch.Tensor]:
    batches = [whole(task) for task in stream.tasks]
    return torch.cat([batch.x for batch in batches]), torch.cat([batch.y for batch in batches])


def test_the_code_is_the_units_of_largest_response_and_sees_no_level_or_contrast() -> None:
    input = InputSpec("features", 8, 8)
    code = SparseExpansion(input, units=50, winners=5, patch=3, seed=1)
    x = torch.rand(20, 8, 8)
    bits = code(x)
    for row, picture in zip(bits, x, strict=True):
        response = code.weight.numpy() @ picture.flatten().numpy()
        assert set(np.flatnonzero(row)) == set(np.argsort(-response)[:5])
    assert torch.equal(bits, code(3.0 * x + 0.5))
    assert torch.equal(bits, SparseExpansion(input, units=50, winners=5, patch=3, seed=1)(x))
    assert not torch.equal(bits, SparseExpansion(input, units=50, winners=5, patch=3, seed=2)(x))


def test_a_field_is_one_square_of_the_picture_in_all_channels() -> None:
    code = SparseExpansion(InputSpec("features", 6, 18), units=80, winners=5, patch=3, seed=0)
    seen = code.weight.view(80, 6, 6, 3) != 0
    assert torch.equal(seen.sum((1, 2, 3)), torch.full((80,), 27))
    for unit in seen.all(-1):
        rows, columns = unit.nonzero(as_tuple=True)
        assert int(rows.max() - rows.min()) == int(columns.max() - columns.min()) == 2
    assert {int(unit.nonzero()[0, 0]) for unit in seen} == {0, 1, 2, 3}  # corners everywhere that fits


@pytest.mark.parametrize("first", [None, 5])
def test_counts_are_multinomial_naive_bayes(first: int | None) -> None:
    """``first`` rows of the first task: then classes differ in size, and what they were drawn from does not cancel."""
    stream = tiny_stream()
    learner = memory(stream, readout="hebbian", smoothing=0.3)
    xs, ys = [], []
    for task in stream.tasks:
        split, batch = task.split("train"), whole(task)
        count = len(split) if first is None or task is not stream.tasks[0] else first
        learner.fit(Split(split.inputs[:count], split.labels[:count]), task, lambda step: None)
        xs.append(batch.x[:count])
        ys.append(batch.y[:count])
    x, y = torch.cat(xs), torch.cat(ys)
    reference = MultinomialNB(alpha=0.3, fit_prior=False).fit(learner.code(x).numpy(), y.numpy())
    batch = whole(stream.tasks[1], "test")
    scores = learner.predict(batch, None)[:, torch.from_numpy(reference.classes_)].log_softmax(-1).numpy()
    np.testing.assert_allclose(scores, reference.predict_log_proba(learner.code(batch.x).numpy()), atol=1e-4)
    sizes = np.bincount(y.numpy())
    assert (len(set(sizes[sizes > 0])) > 1) is (first is not None)


def test_least_squares_is_ridge_regression() -> None:
    stream = tiny_stream()
    learner = taught(stream, ridge=2.0, batch_size=7)
    x, y = together(stream)
    target = torch.nn.functional.one_hot(y, 6).double().numpy()
    reference = Ridge(alpha=2.0, fit_intercept=False, solver="cholesky").fit(learner.code(x).double().numpy(), target)
    batch = whole(stream.tasks[2], "test")
    np.testing.assert_allclose(
        learner.predict(batch, None).numpy(), reference.predict(learner.code(batch.x).double().numpy()), atol=1e-5
    )


@pytest.mark.parametrize("boundaries", [False, True])
@pytest.mark.parametrize("readout", ["hebbian", "least-squares"])
def test_statistics_are_identical_in_any_order_of_the_tasks(readout: str, boundaries: bool) -> None:
    stream = tiny_stream("domain")
    forward = taught(stream, readout=readout, boundaries=boundaries)
    backward = taught(stream, (2, 0, 1), readout=readout, boundaries=boundaries, batch_size=5)
    assert forward.counts.keys() == backward.counts.keys()
    for key, counts in forward.counts.items():
        assert torch.equal(counts, backward.counts[key])
    if readout == "least-squares":
        assert torch.equal(forward.together, backward.together)
    batch = whole(stream.tasks[0], "test")
    assert torch.equal(forward.predict(batch, None), backward.predict(batch, None))


def test_with_boundaries_a_class_answers_with_the_best_of_its_tasks() -> None:
    stream = tiny_stream("domain")
    apart = taught(stream, readout="hebbian", boundaries=True)
    batch = whole(stream.tasks[1], "test")
    alone = []
    for index in range(3):
        one = memory(stream, readout="hebbian")
        one.fit(stream.tasks[index].split("train"), stream.tasks[index], lambda step: None)
        alone.append(one.predict(batch, None))
    torch.testing.assert_close(apart.predict(batch, None), torch.stack(alone).amax(0))


def test_a_class_that_was_never_shown_cannot_win_and_bytes_are_counted() -> None:
    stream = tiny_stream()
    learner = taught(stream, (1,), readout="hebbian")
    assert set(learner.predict(whole(stream.tasks[0]), None).argmax(-1).tolist()) <= {2, 3}
    assert learner.memory()["state"] == 4 * (6 * 61 + 6 * 60 + 6)
    assert learner.memory()["parameters"] == 4 * 60 * 6
    full = run(stream, memory(stream))
    assert full.memory["state"] == 4 * (60 * 60 + 6 * 61 + 6 * 60 + 6)
    assert (full.memory["buffer"], full.sees_task_id, full.steps) == (0, False, 3)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"winners": 0.0}, "between 0 and 1"),
        ({"units": 3, "winners": 0.9}, "3 of 3 units cannot win"),
        ({"patch": 5}, "does not fit an input of 2 x 3"),
        ({"ridge": 0.0}, "above 0"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        memory(tiny_stream(), **options)


def test_tokens_are_refused_and_a_share_is_rounded() -> None:
    with pytest.raises(UsageError, match="reads features, not tokens"):
        SparseExpansion(InputSpec("tokens", size=10), units=5, winners=1, patch=None, seed=0)
    assert (share_of(200, 0.0125), share_of(10, 0.001)) == (3, 1)
