"""The plain data that model, rule and task exchange."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

IGNORE = -100  # a target that does not count


@dataclass(frozen=True)
class InputSpec:
    """What enters a model.

    ``tokens``: x is (B, T) int64 with ``size`` symbols, ``pad`` the padding symbol.
    ``features``: x is (B, T, size) float32.
    ``length`` is the largest T. ``pair``: a sample is two such sequences, x is (B, 2, T[, size]); the first stage folds
    them to (2B, T[, size]), the two of a pair side by side, and the readout unfolds.
    """

    kind: Literal["tokens", "features"] = "tokens"
    length: int = 64
    size: int = 256
    pad: int = 0
    pair: bool = False


@dataclass(frozen=True)
class OutputSpec:
    """What a model answers: a ``label`` of ``size`` classes per sample, or the next ``token`` at each step."""

    kind: Literal["label", "token"] = "label"
    size: int = 2


@dataclass(frozen=True)
class Batch:
    """x as its InputSpec says; y (B,) int64 labels or (B, T) targets with IGNORE; mask (B, T) bool, True = real; of
    pairs x is (B, 2, T[, size]) and mask (B, 2, T)."""

    x: Tensor
    y: Tensor
    mask: Tensor | None = None

    def __len__(self) -> int:
        return self.x.shape[0]

    def to(self, device: torch.device | str) -> Batch:
        mask = None if self.mask is None else self.mask.to(device, non_blocking=True)
        return replace(self, x=self.x.to(device, non_blocking=True), y=self.y.to(device, non_blocking=True), mask=mask)


@dataclass
class Context:
    """What every stage may read beside x. Nothing in it requires grad.

    A stage reads ``state[name]`` and overwrites ``next_state[name]``, never in place, so that it stays a pure function.
    ``keep_state`` False says that nobody will read ``next_state``: what is dear to compute may be left out.
    ``observables`` is None or a dict in which stages leave what an observer asked for (order parameters, rates).
    """

    mask: Tensor | None = None
    gate: Tensor | None = None
    state: dict[str, Any] = field(default_factory=dict)
    next_state: dict[str, Any] = field(default_factory=dict)
    keep_state: bool = True
    observables: dict[str, Tensor] | None = None


class Loss(NamedTuple):
    """Sums over a batch: ``objective`` is what is minimised, ``reported`` never holds auxiliary terms, ``count`` is the
    number of samples or of targets that are not IGNORE."""

    objective: Tensor
    reported: Tensor
    count: int  # type: ignore[assignment]  # shadows tuple.count


def zero_masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """x (B, T, ...) with zeros where ``mask`` (B, T) is False."""
    if mask is None:
        return x
    return x.masked_fill(~mask.reshape(*mask.shape, *([1] * (x.dim() - 2))), 0.0)
