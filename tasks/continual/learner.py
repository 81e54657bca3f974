"""The contract of a learner: what learns a stream, with gradients or without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from neurons.specs import Batch
from tasks.continual.stream import StreamTask
from tasks.task import Split

OnStep = Callable[[int], None]


class Learner:
    """Base of everything that learns task after task.

    ``data``: the train rows that ``fit`` is given, those of the current task, of all tasks so far, or of all tasks.
    ``needs_task``: ``predict`` must be told the task of its samples, in any scenario.
    """

    data: Literal["current", "past", "all"] = "current"
    needs_task: bool = False

    def fit(self, data: Split, task: StreamTask, on_step: OnStep) -> None:
        """Learn ``task`` from ``data``, whose labels are outputs; row y of ``task.active`` says which outputs compete
        for label y. ``on_step(n)`` is called after step n of this task, from 1, and may call ``predict``."""
        raise NotImplementedError("abstract: a learner defines fit(data, task, on_step)")

    def predict(self, batch: Batch, task: StreamTask | None) -> Tensor:
        """Scores (B, C) of all outputs, higher wins; the protocol leaves out those that do not compete. ``task`` is
        None where the task is not known. Must leave the course of training as it is."""
        raise NotImplementedError("abstract: a learner defines predict(batch, task)")

    def memory(self) -> dict[str, int]:
        """Bytes kept: ``parameters``, ``state`` (statistics of past tasks, read-outs), ``buffer`` (stored samples)."""
        raise NotImplementedError("abstract: a learner defines memory()")
