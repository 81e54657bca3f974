"""The protocol against learners whose every answer is known."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from neurons.errors import UsageError
from neurons.specs import Batch
from tasks import STREAMS
from tasks.continual.learner import Learner, OnStep
from tasks.continual.protocol import Outcome, run
from tasks.continual.stream import StreamData, StreamTask
from tasks.task import Split


class Lookup(Learner):
    """Remembers every picture it was shown, takes ten steps a task, and scores 1 for what it remembers."""

    def __init__(self, data: Any = "current", needs_task: bool = False) -> None:
        self.data, self.needs_task = data, needs_task
        self.known: dict[bytes, int] = {}
        self.log: list[tuple[int, int, Counter[int]]] = []
        self.told: list[int | None] = []
        self.active: list[np.ndarray] = []

    def fit(self, data: Split, task: StreamTask, on_step: OnStep) -> None:
        self.active.append(task.active)
        self.log.append((task.index, len(data), Counter(data.labels.tolist())))
        rows = np.asarray(data.inputs)
        for step in range(10):
            for i in range(step, len(data), 10):
                self.known[rows[i].tobytes()] = int(data.labels[i])
            on_step(step + 1)

    def predict(self, batch: Batch, task: StreamTask | None) -> Tensor:
        self.told.append(None if task is None else task.index)
        scores = torch.zeros(len(batch), self.outputs)
        for row, x in enumerate(batch.x.numpy()):
            label = self.known.get(x.tobytes())
            if label is not None:
                scores[row, label] = 1.0
        return scores

    def memory(self) -> dict[str, int]:
        return {"parameters": 0, "state": 0, "buffer": len(self.known)}


class Constant(Learner):
    """Says the same scores to all, whatever it was shown."""

    def __init__(self, scores: list[float]) -> None:
        self.scores = torch.tensor(scores)

    def fit(self, data: Split, task: StreamTask, on_step: OnStep) -> None:
        pass

    def predict(self, batch: Batch, task: StreamTask | None) -> Tensor:
        return self.scores.expand(len(batch), -1)

    def memory(self) -> dict[str, int]:
        return {}


def remembered(stream: StreamData, learner: Lookup, **options: Any) -> Outcome:
    """Run with test rows made train rows, so that the learner can know them."""
    learner.outputs = stream.output.size
    for task in stream.tasks:
        object.__setattr__(task.part.data, "test", task.part.data.train)
    return run(stream, learner, **options)


@pytest.mark.parametrize("scenario", ["task", "class"])
def test_a_perfect_memory_fills_the_lower_triangle_with_ones(scenario: str) -> None:
    outcome = remembered(STREAMS.build("split-digits", scenario=scenario).load(), Lookup())
    assert (outcome.R[np.tril_indices(5)] == 1).all()
    future = outcome.R[np.triu_indices(5, 1)]
    if scenario == "class":  # outputs of tasks to come do not compete yet
        assert (future == 0).all()
    else:  # all scores equal, the first of the task's two outputs wins: its share of the rows
        assert ((future > 0.4) & (future < 0.6)).all()
    assert outcome.sees_task_id is (scenario == "task")
    assert outcome.active == {"task": "current", "class": "all so far"}[scenario]


def test_rows_and_columns_of_R_are_not_transposed() -> None:
    """Constant scores by the output's number, class-incremental: the highest output so far wins, so that after task i
    only the second class of task i is right: the diagonal holds its share, all else is 0."""
    stream = STREAMS.build("split-digits").load()
    outcome = run(stream, Constant([float(i) for i in range(10)]))
    for i in range(5):
        labels = stream.tasks[i].split("test").labels
        wanted = np.zeros(5)
        wanted[i] = np.mean(labels == 2 * i + 1)
        np.testing.assert_allclose(outcome.R[i], wanted)
    untrained = np.zeros(5)
    untrained[4] = np.mean(stream.tasks[4].split("test").labels == 9)
    np.testing.assert_allclose(outcome.untrained, untrained)
    assert outcome.samples == tuple(len(task.split("test")) for task in stream.tasks)
    assert outcome.summary()["fwt"] is None


@pytest.mark.parametrize("data", ["current", "past", "all"])
def test_which_rows_reach_the_learner(data: str) -> None:
    stream = STREAMS.build("split-digits").load()
    learner = Lookup(data)
    remembered(stream, learner)
    for index, size, labels in learner.log:
        chosen = {"current": [index], "past": range(index + 1), "all": range(5)}[data]
        assert sorted(labels) == sorted(output for i in chosen for output in (2 * i, 2 * i + 1))
        assert size == sum(stream.tasks[i].size("train") for i in chosen)


@pytest.mark.parametrize(
    ("scenario", "needs", "told"), [("task", False, True), ("class", False, False), ("domain", True, True)]
)
def test_the_task_reaches_predict_only_where_it_may(scenario: str, needs: bool, told: bool) -> None:
    learner = Lookup(needs_task=needs)
    outcome = remembered(STREAMS.build("split-digits", scenario=scenario).load(), learner)
    assert outcome.sees_task_id is told
    assert set(learner.told) == (set(range(5)) if told else {None})


def test_the_curve_holds_an_evaluation_every_interval_and_at_the_end_of_each_task() -> None:
    outcome = remembered(STREAMS.build("split-digits").load(), Lookup(), every=4)
    assert [point.step for point in outcome.curve] == [4, 8, 10, 12, 16, 20, 24, 28, 30, 32, 36, 40, 44, 48, 50]
    assert [point.during for point in outcome.curve] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    for point in outcome.curve:
        assert len(point.accuracies) == point.during + 1
        assert all(value == 1 for value in point.accuracies[:-1])
        within = point.step - 10 * point.during
        if point.during:  # what is not remembered goes to output 0, of the first task
            assert point.accuracies[-1] == pytest.approx(within / 10, abs=0.02)
    assert outcome.curve[5].accuracies == tuple(outcome.R[1, :2])
    assert outcome.summary()["min_acc"] == 1.0
    assert "aaa" not in remembered(STREAMS.build("split-digits").load(), Lookup()).summary()


def test_a_learner_of_all_tasks_may_answer_with_all_outputs_from_the_start() -> None:
    stream = STREAMS.build("split-digits").load()
    learner = Lookup("all")
    outcome = remembered(stream, learner)
    assert (outcome.R == 1).all()
    assert all(active.all() for active in learner.active)
    with_others = Lookup("past")
    remembered(STREAMS.build("split-digits").load(), with_others)
    assert [int(active[0].sum()) for active in with_others.active] == [2, 4, 6, 8, 10]


def test_validation_is_on_held_out_rows() -> None:
    stream = STREAMS.build("split-digits").load()
    outcome = run(stream, Constant([float(i) for i in range(10)]), split="held_out")
    for i, task in enumerate(stream.tasks):
        assert outcome.R[i, i] == pytest.approx(np.mean(task.split("held_out").labels == 2 * i + 1))


def test_what_cannot_be_run_is_one_line() -> None:
    stream = STREAMS.build("split-digits").load()
    with pytest.raises(UsageError, match=r"scores \(\d+, 10\).*not \(\d+, 3\)"):
        run(stream, Constant([0.0, 1.0, 2.0]))
    with pytest.raises(UsageError, match="at least 1, not 0"):
        run(stream, Constant([0.0] * 10), every=0)
