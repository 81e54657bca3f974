"""What a variant of predictive coding is: a function from a chain to gradients, and how local it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from learning.chain import Chain
from learning.rule import Update
from neurons.specs import Loss

if TYPE_CHECKING:
    from learning.rules.predictive_coding import PredictiveCoding


class Outcome(NamedTuple):
    """``gradients`` of the objective divided by count, one for each of ``chain.parameters`` (None is zero); ``loss``
    after the forward pass."""

    gradients: list[Tensor | None]
    loss: Loss
    passes: int
    scalars: dict[str, float]


class Variant(NamedTuple):
    """``in_space``: every update of stage l uses s_{l-1}, s_l, eps_l, eps_{l+1} alone, and no autograd edge crosses a
    stage. ``in_time``: all stages do the same thing at every step, and nothing is remembered from another phase."""

    run: Callable[[PredictiveCoding, Chain, Update | None], Outcome]
    in_space: bool
    in_time: bool


def detached(loss: Loss) -> Loss:
    return Loss(loss.objective.detach(), loss.reported.detach(), loss.count)
