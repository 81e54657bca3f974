"""Learning-rate schedules: pure functions from a step to a multiplier of the learning rate.

The trainer warms up linearly over the first ``warmup`` fraction of the steps; a schedule shapes the rest.
"""

from __future__ import annotations

import math
from typing import ClassVar

from learning import SCHEDULES


class Schedule:
    """Maps progress in [0, 1), the fraction of the steps after warm-up that are done, to a multiplier."""

    name: ClassVar[str]

    def __call__(self, progress: float) -> float:
        raise NotImplementedError("abstract: a schedule defines __call__(progress)")


@SCHEDULES.register("constant")
class Constant(Schedule):
    """1 throughout."""

    def __call__(self, progress: float) -> float:
        return 1.0


@SCHEDULES.register("cosine")
class Cosine(Schedule):
    """Half a cosine from 1 to ``final``: final + (1 - final) (1 + cos(pi p)) / 2 (Loshchilov and Hutter, 2017)."""

    def __init__(self, *, final: float = 0.0) -> None:
        self.final = final

    def __call__(self, progress: float) -> float:
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2


@SCHEDULES.register("linear")
class Linear(Schedule):
    """A straight line from 1 to ``final``: 1 - (1 - final) p."""

    def __init__(self, *, final: float = 0.0) -> None:
        self.final = final

    def __call__(self, progress: float) -> float:
        return 1 - (1 - self.final) * progress


def multiplier(schedule: Schedule, step: int, *, steps: int, warmup: float) -> float:
    """Multiplier of the learning rate at ``step`` (0-based) of ``steps``.

    With w = round(warmup * steps): (step + 1) / w while step < w, then ``schedule((step - w) / (steps - w))``. No step
    is wasted at a rate of zero: the first is 1/w and the last stops one step short of the schedule's end.
    """
    warm = round(warmup * steps)
    if step < warm:
        return (step + 1) / warm
    return schedule((step - warm) / max(steps - warm, 1))
