"""The dear first calls, made before anybody waits: memory, plans of transforms, and compilation are paid per shape."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from neurons.errors import UsageError
from neurons.model import Model
from neurons.specs import Batch


class Warmth(NamedTuple):
    """Seconds of the first call at (batch, length) and of the last one."""

    batch: int
    length: int
    first: float
    last: float


def warm_up(
    model: Model,
    shapes: Sequence[tuple[int, int]],
    *,
    calls: int = 3,
    run: Callable[[Batch], Tensor] | None = None,
    device: torch.device | str = "cpu",
) -> list[Warmth]:
    """Calls ``model`` without gradient ``calls`` times at each (batch, length), and tells what the first call cost.

    run: what is called instead, such as ``torch.compile(model)``, which compiles anew for each shape; model then only
    says what its inputs look like. The mode (training or not), parameters and random state stay as they were; nothing
    becomes faster than it is at its third call. UsageError without shapes or calls.
    """
    if not shapes or calls < 2 or any(min(shape) < 1 for shape in shapes):
        raise UsageError("a warm-up needs shapes such as [(1, 512)] and 2 calls or more. Try: calls=3")
    found, training = [], model.training
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng():
            for count, length in shapes:
                batch = _example(model, count, length).to(device)
                seconds = [_seconds(model if run is None else run, batch) for _ in range(calls)]
                found.append(Warmth(count, length, seconds[0], seconds[-1]))
    finally:
        model.train(training)
    return found


def _example(model: Model, count: int, length: int) -> Batch:
    spec = model.input
    shape = (count, 2, length) if spec.pair else (count, length)
    if spec.kind == "tokens":
        x = torch.randint(min(1, spec.size - 1), spec.size, shape)
    else:
        x = torch.randn(*shape, spec.size)
    return Batch(x, torch.zeros(count, dtype=torch.int64))


def _seconds(run: Callable[[Batch], Tensor], batch: Batch) -> float:
    begun = time.perf_counter()
    run(batch)
    if batch.x.device.type == "cuda":
        torch.cuda.synchronize(batch.x.device)
    return time.perf_counter() - begun
