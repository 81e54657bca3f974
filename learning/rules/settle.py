"""What stands still while states settle: random numbers, running statistics, parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Replay:
    """Repeats the evaluation of a stage with the random numbers of its first.

    Whoever evaluates in the order of the chain, up to its end, leaves the generators where the first evaluations left
    them: the last stage that draws has the last word.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before: dict[int, list[Tensor]] = {}  # only of the stages that draw
        self._now: list[Tensor] | None = None

    def record(self, index: int, function: Callable[..., T], *arguments: object) -> T:
        before = self._now if self._now is not None else generators(self._device)
        value = function(*arguments)
        self._now = generators(self._device)
        if not all(torch.equal(a, b) for a, b in zip(before, self._now, strict=True)):
            self._before[index] = before
        return value

    def __call__(self, index: int, function: Callable[..., T], *arguments: object) -> T:
        if index in self._before:
            set_generators(self._device, self._before[index])
        return function(*arguments)


def generators(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    elif device.type == "mps":
        states.append(torch.mps.get_rng_state())
    return states


def set_generators(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states[1])


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """No graph is built through ``parameters`` inside; they require grad again afterwards."""
    parameters = list(parameters)
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextmanager
def still_statistics(stages: Iterable[nn.Module]) -> Iterator[None]:
    """Normalisations in training mode use the statistics of what they are given, and record none of it."""
    taken: list[tuple[nn.Module, str, Tensor]] = []
    try:
        for stage in stages:
            for module in stage.modules():
                if module.training and getattr(module, "track_running_stats", False):
                    for name in ("running_mean", "running_var", "num_batches_tracked"):
                        buffer = module._buffers.get(name)
                        if buffer is not None:
                            module._buffers[name] = None
                            taken.append((module, name, buffer))
        yield
    finally:
        for module, name, buffer in taken:
            module._buffers[name] = buffer
