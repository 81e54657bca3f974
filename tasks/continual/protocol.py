"""The protocol: it trains a learner on one task after the other and fills the matrix R, above the diagonal too."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from neurons.errors import UsageError
from tasks.batches import evaluation_batches
from tasks.continual.anytime import anytime
from tasks.continual.learner import Learner, OnStep
from tasks.continual.metrics import Convention, Scenario, summarise
from tasks.continual.stream import ACTIVE, StreamData, StreamTask
from tasks.task import Split

EVALUATION_BATCH = 256

Fit = Callable[[Split, StreamTask, OnStep], None]


@dataclass(frozen=True)
class Point:
    """The curve at one moment: ``step`` over the whole stream, task ``during`` in training, accuracy on each task that
    has begun."""

    step: int
    during: int
    accuracies: tuple[float, ...]


@dataclass
class Outcome:
    """What a learner did on a stream.

    ``R`` (T, T): row i after training on task i, column j the accuracy on task j; ``untrained`` (T,): before the first.
    ``samples`` (T,): rows of each task that ``split`` was evaluated on. ``memory``: bytes kept after the last task.
    ``steps``: training steps over the whole stream.
    """

    R: np.ndarray
    untrained: np.ndarray
    samples: tuple[int, ...]
    split: str
    scenario: Scenario
    active: str
    sees_task_id: bool
    memory: dict[str, int]
    train_seconds: float
    steps: int = 0
    curve: list[Point] = field(default_factory=list)

    def summary(
        self, convention: Convention = "chaudhry", *, joint: np.ndarray | None = None
    ) -> dict[str, float | None]:
        """Every metric of ``summarise``, and those of ``anytime`` where a curve was asked for."""
        found = summarise(
            self.R,
            untrained=self.untrained,
            convention=convention,
            scenario=self.scenario,
            joint=joint,
            samples=self.samples,
        )
        if self.curve:
            values = np.full((len(self.curve), len(self.R)), np.nan)
            for row, point in zip(values, self.curve, strict=True):
                row[: len(point.accuracies)] = point.accuracies
            found |= anytime(values, [point.during for point in self.curve])
        return found


def run(
    stream: StreamData,
    learner: Learner,
    *,
    split: Literal["test", "held_out"] = "test",
    every: int | None = None,
    on_task: Callable[[int, np.ndarray], None] | None = None,
) -> Outcome:
    """Train ``learner`` on the tasks of ``stream`` in order and evaluate it on ``split`` of every task after each.

    Hyper-parameters are chosen on "held_out", results reported on "test". ``every`` evaluates the tasks begun so far
    after that many steps too, counted over the stream, and at the end of each task: the curve of the anytime metrics.
    ``on_task(i, row)`` is called with each finished row of R. Only outputs that compete can win an argmax: those of the
    sample's task (task-incremental), of all tasks so far (class), all (domain). A learner that is given the rows of all
    tasks has met all of them.
    """
    heard = None if on_task is None else lambda index, rows: on_task(index, rows[0])
    return run_group(stream, [learner], learner.fit, split=split, every=every, on_task=heard)[0]


def run_group(
    stream: StreamData,
    learners: Sequence[Learner],
    fit: Fit,
    *,
    split: Literal["test", "held_out"] = "test",
    every: int | None = None,
    on_task: Callable[[int, np.ndarray], None] | None = None,
) -> list[Outcome]:
    """As ``run``, for learners of one kind (seeds, say) that one ``fit(data, task, on_step)`` trains side by side.

    ``on_task(i, rows)``: rows (learners, T). Each outcome's ``train_seconds`` is its equal share of the time.
    """
    if every is not None and every < 1:
        raise UsageError(f"every is a number of steps, at least 1, not {every}. Try: every=50")
    tasks, count, first = stream.tasks, len(stream), learners[0]
    told = stream.sees_task_id or first.needs_task
    spent = [0.0]

    def evaluate(stage: int, task: StreamTask) -> np.ndarray:
        start = time.perf_counter()
        values = accuracies_on(stream, learners, task, split=split, stage=stage, told=told)
        spent[0] += time.perf_counter() - start
        return values

    untrained = np.stack([evaluate(0, task) for task in tasks], axis=1)
    R, steps, seconds = np.zeros((len(learners), count, count)), 0, 0.0
    moments: list[tuple[int, int, np.ndarray]] = []  # step, task, (learners, tasks begun)
    for index, task in enumerate(tasks):
        taken = 0
        met = count if first.data == "all" else index + 1  # tasks whose outputs it has seen

        def on_step(step: int, index: int = index, before: int = steps, met: int = met) -> None:
            nonlocal taken
            taken = step
            if every is not None and (before + step) % every == 0:
                values = np.stack([evaluate(met, tasks[j]) for j in range(index + 1)], axis=1)
                moments.append((before + step, index, values))

        chosen = {"current": tasks[index : index + 1], "past": tasks[: index + 1], "all": tasks}[first.data]
        data = stream.pool(chosen, "train")
        start, spent[0] = time.perf_counter(), 0.0
        fit(data, replace(task, active=tasks[met - 1].active), on_step)
        seconds += time.perf_counter() - start - spent[0]
        steps += taken
        R[:, index] = np.stack([evaluate(met, other) for other in tasks], axis=1)
        if every is not None:
            if moments and moments[-1][:2] == (steps, index):
                moments.pop()  # what ``fit`` does after its last step counts
            moments.append((steps, index, R[:, index, : index + 1]))
        if on_task is not None:
            on_task(index, R[:, index])
    return [
        Outcome(
            R=R[number],
            untrained=untrained[number],
            samples=tuple(task.size(split) for task in tasks),
            split=split,
            scenario=stream.scenario,
            active=ACTIVE[stream.scenario],
            sees_task_id=told,
            memory=learner.memory(),
            train_seconds=seconds / len(learners),
            steps=steps,
            curve=[Point(step, during, tuple(values[number])) for step, during, values in moments],
        )
        for number, learner in enumerate(learners)
    ]


def accuracies_on(
    stream: StreamData, learners: Sequence[Learner], task: StreamTask, *, split: str, stage: int, told: bool
) -> np.ndarray:
    """(learners,) accuracy on ``split`` of ``task`` after ``stage`` trained tasks, among outputs that compete."""
    rows = task.split(split)
    competing = torch.from_numpy(stream.competing(stage, task.index))
    right = np.zeros(len(learners))
    for _, batch in evaluation_batches(rows, stream.input, EVALUATION_BATCH):
        for number, learner in enumerate(learners):
            scores = learner.predict(batch, task if told else None).cpu()
            if scores.shape != (len(batch), stream.output.size):
                wanted = (len(batch), stream.output.size)
                raise UsageError(
                    f"a learner's predict gives scores {wanted}, (batch, outputs), not {tuple(scores.shape)}"
                )
            right[number] += int((scores.masked_fill(~competing, -torch.inf).argmax(-1) == batch.y).sum())
    return right / len(rows)
