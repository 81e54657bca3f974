"""The contract of a stream: tasks that come one after the other, made from real splits on demand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from neurons.errors import UsageError, nearest
from neurons.specs import InputSpec, OutputSpec
from tasks import TASKS
from tasks.continual.metrics import Scenario
from tasks.task import Split, TaskData

SPLITS = ("train", "held_out", "test")
ACTIVE: dict[str, str] = {"task": "current", "domain": "all", "class": "all so far"}
SAMPLED = 64  # rows of each split that enter the hash beside the hash of the data they are made from

Change = Callable[[np.ndarray], np.ndarray]
Bases = Mapping[str, Mapping[str, Any]]  # a task's name -> the options it is built with


@dataclass(frozen=True)
class Part:
    """How one task is cut from a loaded data set: its ``classes``, in the order of its outputs, and what happens to
    their inputs (n, T, F)."""

    title: str
    data: TaskData
    classes: tuple[int, ...]
    change: Change | None = None


@dataclass(frozen=True)
class StreamTask:
    """One task: ``index`` of ``count``, its ``outputs`` in the shared output layer of C units.

    ``active`` (C, C) bool: row y says which outputs compete for a sample labelled y while this task is trained. Splits
    are made anew at every call, so that a hundred tasks need the memory of one.
    """

    index: int
    count: int
    part: Part
    outputs: tuple[int, ...]
    active: np.ndarray
    input: InputSpec
    output: OutputSpec

    @property
    def title(self) -> str:
        return self.part.title

    def split(self, name: str, *, limit: int | None = None) -> Split:
        """Rows of split ``name`` ("train", "held_out" or "test"), the first ``limit`` of them; labels are outputs."""
        whole: Split = getattr(self.part.data, name)
        outputs = np.full(max(whole.labels.max(initial=0), *self.part.classes) + 1, -1, dtype=np.int64)
        outputs[list(self.part.classes)] = self.outputs
        labels = outputs[whole.labels]
        rows = np.flatnonzero(labels >= 0)[:limit]
        if isinstance(whole.inputs, np.ndarray):
            inputs: Sequence[np.ndarray] | np.ndarray = whole.inputs[rows]
            if self.part.change is not None:
                inputs = self.part.change(whole.inputs[rows])
        else:
            inputs = [whole.inputs[row] for row in rows]
        return Split(inputs, labels[rows])

    def size(self, name: str) -> int:
        """Number of rows of split ``name``."""
        return int(np.isin(getattr(self.part.data, name).labels, self.part.classes).sum())

    def digest(self) -> str:
        """sha256 over the definition of the task: all its labels and the first rows it makes of each split."""
        sha = hashlib.sha256(self.title.encode())
        for name in SPLITS:
            sha.update(self.split(name, limit=SAMPLED).digest().encode())
            sha.update(f"{self.size(name)}|{self.outputs}".encode())
        return sha.hexdigest()


@dataclass(frozen=True)
class StreamData:
    """A loaded stream. ``scenario`` (van de Ven & Tolias 2019) settles outputs and what is told at test:

    - task: every task has outputs of its own, and only they compete; the task of a test sample is known.
    - domain: all tasks share their outputs; the task of a test sample is not known.
    - class: every task has outputs of its own; those of all tasks so far compete, and the task is not known.
    """

    scenario: Scenario
    tasks: tuple[StreamTask, ...]
    input: InputSpec
    output: OutputSpec
    source: str
    protocol: str

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def sees_task_id(self) -> bool:
        """Whether the scenario tells a learner which task a test sample is from."""
        return self.scenario == "task"

    @property
    def split_hash(self) -> str:
        """16 hex digits over the data, the scenario and every task."""
        bases = {id(task.part.data): task.part.data for task in self.tasks}
        parts = [self.scenario, *(data.split_hash for data in bases.values()), *(task.digest() for task in self.tasks)]
        return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]

    def competing(self, stage: int, index: int) -> np.ndarray:
        """(C,) bool: outputs that may answer a test sample of task ``index`` after ``stage`` trained tasks. In a
        class-incremental stream all may while nothing is trained."""
        if self.scenario == "task":
            return self.tasks[index].active[self.tasks[index].outputs[0]]
        if self.scenario == "class" and stage > 0:
            return self.tasks[stage - 1].active[0]
        return np.ones(self.output.size, bool)

    def pool(self, tasks: Sequence[StreamTask], name: str) -> Split:
        """Split ``name`` of several tasks as one."""
        splits = [task.split(name) for task in tasks]
        if len(splits) == 1:
            return splits[0]
        labels = np.concatenate([split.labels for split in splits])
        if isinstance(splits[0].inputs, np.ndarray):
            return Split(np.concatenate([np.asarray(split.inputs) for split in splits]), labels)
        return Split([row for split in splits for row in split.inputs], labels)


class Stream:
    """Base of every stream: options are the protocol, ``parts`` cuts tasks from the data of the tasks ``bases``.

    ``standardise`` takes the one mean of all levels of the first base's train split from every input, and divides by
    their one deviation: constants of the data set, the same for all tasks. What an MLP learns and forgets hangs on it.
    """

    name: ClassVar[str]
    bases: ClassVar[Bases]

    def __init__(self, *, tasks: int, scenario: Scenario, standardise: bool) -> None:
        self.tasks, self.scenario, self.standardise = tasks, scenario, standardise
        if scenario not in ACTIVE:
            raise UsageError(f"unknown scenario '{scenario}'.{nearest(scenario, ACTIVE)} Known: {', '.join(ACTIVE)}")
        if tasks < 2:
            raise UsageError(f"a stream has at least 2 tasks, not {tasks}: nothing can be forgotten. Try: tasks=5")

    def parts(self, *data: TaskData) -> list[Part]:
        """The tasks, from the data of each of ``bases`` in order."""
        raise NotImplementedError("abstract: a stream defines parts(*data)")

    def describe(self) -> str:
        """What ``parts`` does, for the protocol."""
        raise NotImplementedError("abstract: a stream defines describe()")

    def load(self, data_dir: str | None = None) -> StreamData:
        """The stream's tasks; DataError as the base tasks', UsageError if a task cannot be learned from."""
        data = [TASKS.build(name, **options).load(data_dir) for name, options in self.bases.items()]
        parts, levels = self.parts(*data), ""
        if self.standardise:
            standard = _Standard.of(np.asarray(data[0].train.inputs))
            parts = [replace(part, change=_Then(part.change, standard)) for part in parts]
            levels = f"; levels less {standard.mean:.4f}, over {standard.deviation:.4f}"
        read = "; ".join(one.protocol for one in data)
        told = f"{self.describe()}{levels}; {self.scenario}-incremental; data: {read}"
        return assembled(parts, scenario=self.scenario, protocol=f"{self.name}: {told}")


@dataclass(frozen=True)
class _Standard:
    """Inputs less ``mean``, over ``deviation``."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, inputs: np.ndarray) -> _Standard:
        return cls(float(inputs.mean(dtype=np.float64)), float(inputs.std(dtype=np.float64)))

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        return (inputs - np.float32(self.mean)) / np.float32(self.deviation)


@dataclass(frozen=True)
class _Then:
    """One change after another; the first may be None."""

    first: Change | None
    second: Change

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        return self.second(inputs if self.first is None else self.first(inputs))


def assembled(parts: Sequence[Part], *, scenario: Scenario, protocol: str) -> StreamData:
    """Parts as a stream: outputs laid out by ``scenario``, and what cannot be learned from refused in one line."""
    for number, part in enumerate(parts):
        _check(number, part)
    shared = scenario == "domain"
    sizes = [len(part.classes) for part in parts]
    starts = [0] * len(parts) if shared else np.cumsum([0, *sizes[:-1]]).tolist()
    units = max(sizes) if shared else sum(sizes)
    outputs = [tuple(range(start, start + size)) for start, size in zip(starts, sizes, strict=True)]
    heads = np.zeros((units, units), bool)
    for own in outputs:
        heads[np.ix_(own, own)] = True
    input, output = parts[0].data.input, OutputSpec("label", units)
    for number, part in enumerate(parts):
        if part.data.input != input:
            raise UsageError(f"task {number + 1} of the stream ({part.title}) reads other inputs than the first")
    tasks = []
    for index, part in enumerate(parts):
        active = {
            "task": heads,
            "domain": np.ones((units, units), bool),
            "class": np.tile(np.arange(units) <= outputs[index][-1], (units, 1)),
        }[scenario]
        tasks.append(StreamTask(index, len(parts), part, outputs[index], active, input, output))
    sources = ", ".join(dict.fromkeys(part.data.source for part in parts))
    return StreamData(scenario, tuple(tasks), input, output, sources, protocol)


def _check(number: int, part: Part) -> None:
    name = f"task {number + 1} of the stream ({part.title})"
    if len(part.classes) < 2:
        held = f"one class ({part.classes[0]})" if part.classes else "no class"
        raise UsageError(f"{name} holds {held}: there is nothing to tell apart. Give every task at least 2 classes")
    if len(set(part.classes)) < len(part.classes):
        raise UsageError(f"{name} names a class twice: {', '.join(map(str, part.classes))}. Name each once")
    unknown = [label for label in part.classes if not 0 <= label < part.data.output.size]
    if unknown:
        raise UsageError(f"{name} names class {unknown[0]}, but the data has classes 0..{part.data.output.size - 1}")
    for split in SPLITS:
        present = np.unique(getattr(part.data, split).labels)
        missing = sorted(set(part.classes) - set(present.tolist()))
        if len(missing) == len(part.classes):
            raise UsageError(f"{name} is empty: no row of its classes in split '{split}'")
        if missing:
            raise UsageError(f"{name} has no row of class {missing[0]} in split '{split}'")
