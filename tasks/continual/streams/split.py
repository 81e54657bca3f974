"""Split streams: the classes of a data set, a few at a time (Zenke et al. 2017)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from neurons.errors import UsageError
from tasks import STREAMS
from tasks.continual.metrics import Scenario
from tasks.continual.stream import Bases, Part, Stream
from tasks.task import TaskData


class ClassSplit(Stream):
    """``tasks`` runs of classes in ascending order, as equal as they divide.

    ``groups`` names the classes of each task instead, such as "0,1/2,3,4": then ``tasks`` is their number.
    """

    def __init__(self, *, tasks: int, scenario: Scenario, groups: str | None, standardise: bool) -> None:
        super().__init__(
            tasks=tasks if groups is None else max(len(groups.split("/")), 1),
            scenario=scenario,
            standardise=standardise,
        )
        self.tasks, self.groups = tasks, groups

    def parts(self, *data: TaskData) -> list[Part]:
        classes = self._classes(data[0].output.size)
        taken: dict[int, int] = {}
        for number, group in enumerate(classes):
            for label in group:
                if taken.setdefault(label, number) != number:
                    raise UsageError(
                        f"class {label} is in tasks {taken[label] + 1} and {number + 1}: the labels of tasks must not"
                        " overlap. Give each class to one task"
                    )
        return [Part("classes " + ", ".join(map(str, group)), data[0], group) for group in classes]

    def _classes(self, count: int) -> list[tuple[int, ...]]:
        if self.groups is None:
            if self.tasks > count:
                raise UsageError(f"{self.tasks} tasks from {count} classes: at most {count // 2} tasks of 2 classes")
            return [tuple(run.tolist()) for run in np.array_split(np.arange(count), self.tasks)]
        try:
            return [
                tuple(int(label) for label in group.split(",") if label.strip()) for group in self.groups.split("/")
            ]
        except ValueError:
            raise UsageError(f"groups takes class numbers, such as 0,1/2,3, not '{self.groups}'") from None

    def describe(self) -> str:
        named = f"{self.tasks} runs of classes in ascending order" if self.groups is None else f"classes {self.groups}"
        return f"{named}, labelled in the order of their tasks"


@STREAMS.register("split-digits")
class SplitDigits(ClassSplit):
    """scikit-learn's digits, two classes at a time."""

    bases: ClassVar[Bases] = {"digits": {}}

    def __init__(
        self,
        *,
        tasks: int = 5,
        scenario: Literal["task", "domain", "class"] = "class",
        groups: str | None = None,
        standardise: bool = True,
    ) -> None:
        super().__init__(tasks=tasks, scenario=scenario, groups=groups, standardise=standardise)


@STREAMS.register("split-mnist")
class SplitMNIST(ClassSplit):
    """MNIST, two classes at a time, the field's standard for class-incremental learning."""

    bases: ClassVar[Bases] = {"mnist": {}}

    def __init__(
        self,
        *,
        tasks: int = 5,
        scenario: Literal["task", "domain", "class"] = "class",
        groups: str | None = None,
        standardise: bool = False,
    ) -> None:
        super().__init__(tasks=tasks, scenario=scenario, groups=groups, standardise=standardise)


@STREAMS.register("split-fashion-mnist")
class SplitFashionMNIST(ClassSplit):
    """Fashion-MNIST, two classes at a time."""

    bases: ClassVar[Bases] = {"fashion-mnist": {}}

    def __init__(
        self,
        *,
        tasks: int = 5,
        scenario: Literal["task", "domain", "class"] = "class",
        groups: str | None = None,
        standardise: bool = False,
    ) -> None:
        super().__init__(tasks=tasks, scenario=scenario, groups=groups, standardise=standardise)


@STREAMS.register("split-cifar10")
class SplitCIFAR10(ClassSplit):
    """CIFAR-10, two classes at a time."""

    bases: ClassVar[Bases] = {"cifar10": {}}

    def __init__(
        self,
        *,
        tasks: int = 5,
        scenario: Literal["task", "domain", "class"] = "class",
        groups: str | None = None,
        standardise: bool = True,
    ) -> None:
        super().__init__(tasks=tasks, scenario=scenario, groups=groups, standardise=standardise)
