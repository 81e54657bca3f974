"""Rotated streams: the same pictures, turned further for every task (Lopez-Paz & Ranzato 2017)."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
from scipy.ndimage import rotate
from scipy.sparse import csr_matrix

from neurons.errors import UsageError
from tasks import STREAMS
from tasks.continual.metrics import Scenario
from tasks.continual.stream import Bases, Part, Stream
from tasks.task import TaskData


class Rotated(Stream):
    """Task t turns square pictures by t ``degrees`` / ``tasks``, counter-clockwise about their centre, bilinear."""

    def __init__(self, *, tasks: int, scenario: Scenario, degrees: float, standardise: bool) -> None:
        super().__init__(tasks=tasks, scenario=scenario, standardise=standardise)
        self.degrees = degrees
        if not 0 < degrees <= 360:
            raise UsageError(f"degrees is the range of the rotations, above 0 and up to 360, not {degrees:g}")

    def parts(self, *data: TaskData) -> list[Part]:
        classes = tuple(range(data[0].output.size))
        angles = [number * self.degrees / self.tasks for number in range(self.tasks)]
        return [Part(f"{angle:g} degrees", data[0], classes, _Turned(angle) if angle else None) for angle in angles]

    def describe(self) -> str:
        return f"{self.tasks} rotations, {self.degrees / self.tasks:g} degrees apart"


class _Turned:
    """Pictures (n, H, H C) turned by ``degrees``; what comes in from outside is 0."""

    def __init__(self, degrees: float) -> None:
        self.degrees = degrees

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        side = inputs.shape[1]
        pixels = inputs.reshape(len(inputs), side * side, -1)
        turn = turning(side, self.degrees)
        turned = [(turn @ pixels[:, :, channel].T).T for channel in range(pixels.shape[2])]
        return np.stack(turned, axis=-1).reshape(inputs.shape).astype(inputs.dtype, copy=False)


@lru_cache(maxsize=128)
def turning(side: int, degrees: float) -> csr_matrix:
    """A bilinear rotation is linear, and sparse: (side^2, side^2), the pictures of single pixels, turned."""
    single = np.eye(side * side, dtype=np.float32).reshape(-1, side, side)
    turned = rotate(single, degrees, axes=(1, 2), reshape=False, order=1)
    return csr_matrix(turned.reshape(side * side, -1).T)


@STREAMS.register("rotated-digits")
class RotatedDigits(Rotated):
    """Rotations of scikit-learn's 8 x 8 digits."""

    bases: ClassVar[Bases] = {"digits": {}}

    def __init__(
        self,
        *,
        tasks: int = 10,
        scenario: Literal["task", "domain", "class"] = "domain",
        degrees: float = 180.0,
        standardise: bool = True,
    ) -> None:
        super().__init__(tasks=tasks, scenario=scenario, degrees=degrees, standardise=standardise)


@STREAMS.register("rotated-mnist")
class RotatedMNIST(Rotated):
    """Rotations of MNIST."""

    bases: ClassVar[Bases] = {"mnist": {}}

    def __init__(
        self,
        *,
        tasks: int = 10,
        scenario: Literal["task", "domain", "class"] = "domain",
        degrees: float = 180.0,
        standardise: bool = False,
    ) -> None:
        super().__init__(tasks=tasks, scenario=scenario, degrees=degrees, standardise=standardise)


@STREAMS.register("rotated-fashion-mnist")
class RotatedFashionMNIST(Rotated):
    """Rotations of Fashion-MNIST."""

    bases: ClassVar[Bases] = {"fashion-mnist": {}}

    def __init__(
        self,
        *,
        tasks: int = 10,
        scenario: Literal["task", "domain", "class"] = "domain",
        degrees: float = 180.0,
        standardise: bool = False,
    ) -> None:
        super().__init__(tasks=tasks, scenario=scenario, degrees=degrees, standardise=standardise)


@STREAMS.register("rotated-cifar10")
class RotatedCIFAR10(Rotated):
    """Rotations of CIFAR-10's colour photographs."""

    bases: ClassVar[Bases] = {"cifar10": {}}

    def __init__(
        self,
        *,
        tasks: int = 10,
        scenario: Literal["task", "domain", "class"] = "domain",
        degrees: float = 180.0,
        standardise: bool = True,
    ) -> None:
        super().__init__(tasks=tasks, scenario=scenario, degrees=degrees, standardise=standardise)
