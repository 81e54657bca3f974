"""Permuted streams: the same pictures, their places shuffled anew for every task (Goodfellow et al. 2013)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from neurons.errors import UsageError
from tasks import STREAMS
from tasks.continual.metrics import Scenario
from tasks.continual.stream import Bases, Part, Stream
from tasks.task import TaskData


class Permuted(Stream):
    """``tasks`` fixed permutations of all T F places of an input, drawn by ``seed``; the first task is as it was."""

    def __init__(self, *, tasks: int, scenario: Scenario, seed: int, standardise: bool) -> None:
        super().__init__(tasks=tasks, scenario=scenario, standardise=standardise)
        self.seed = seed
        if seed < 0:
            raise UsageError(f"a seed is at least 0, not {seed}")

    def parts(self, *data: TaskData) -> list[Part]:
        classes = tuple(range(data[0].output.size))
        return [
            Part(f"permutation {number}", data[0], classes, _Shuffled(self.seed, number) if number else None)
            for number in range(self.tasks)
        ]

    def describe(self) -> str:
        return f"{self.tasks} permutations of the places, seed {self.seed}, the first the identity"


class _Shuffled:
    """Inputs (n, T, F) with their T F places in the order of permutation ``number``."""

    def __init__(self, seed: int, number: int) -> None:
        self.key = (seed, number)

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        flat = inputs.reshape(len(inputs), -1)
        order = np.random.default_rng(self.key).permutation(flat.shape[1])
        return flat[:, order].reshape(inputs.shape)


@STREAMS.register("permuted-digits")
class PermutedDigits(Permuted):
    """Permutations of scikit-learn's 8 x 8 digits: no download, and it separates every method."""

    bases: ClassVar[Bases] = {"digits": {}}

    def __init__(
        self,
        *,
        tasks: int = 10,
        scenario: Literal["task", "domain", "class"] = "domain",
        seed: int = 0,
        standardise: bool = True,
    ) -> None:
        super().__init__(tasks=tasks, scenario=scenario, seed=seed, standardise=standardise)


@STREAMS.register("permuted-mnist")
class PermutedMNIST(Permuted):
    """Permutations of MNIST, the field's standard for domain-incremental learning."""

    bases: ClassVar[Bases] = {"mnist": {}}

    def __init__(
        self,
        *,
        tasks: int = 10,
        scenario: Literal["task", "domain", "class"] = "domain",
        seed: int = 0,
        standardise: bool = False,
    ) -> None:
        super().__init__(tasks=tasks, scenario=scenario, seed=seed, standardise=standardise)


@STREAMS.register("permuted-fashion-mnist")
class PermutedFashionMNIST(Permuted):
    """Permutations of Fashion-MNIST."""

    bases: ClassVar[Bases] = {"fashion-mnist": {}}

    def __init__(
        self,
        *,
        tasks: int = 10,
        scenario: Literal["task", "domain", "class"] = "domain",
        seed: int = 0,
        standardise: bool = False,
    ) -> None:
        super().__init__(tasks=tasks, scenario=scenario, seed=seed, standardise=standardise)


@STREAMS.register("permuted-cifar10")
class PermutedCIFAR10(Permuted):
    """Permutations of CIFAR-10's 3,072 levels."""

    bases: ClassVar[Bases] = {"cifar10": {}}

    def __init__(
        self,
        *,
        tasks: int = 10,
        scenario: Literal["task", "domain", "class"] = "domain",
        seed: int = 0,
        standardise: bool = True,
    ) -> None:
        super().__init__(tasks=tasks, scenario=scenario, seed=seed, standardise=standardise)
