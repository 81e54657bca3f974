"""Several processes train one model: who they are, their share of a batch, and what they must agree on.

``torchrun`` starts the processes, each with a rank from 0; every one holds the whole model. At a step each takes its
slice of one global batch, its rule fills ``.grad`` from that slice, and the sums over all slices replace it, so that
all of them make the same update. Wrappers that hook into ``backward`` would not see what a local rule fills in.

Without ``torchrun`` there is one process: rank 0 of 1, and everything here gives back what it was given.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from learning.checkpoint import Checkpoint, load_checkpoint, model_tensors
from neurons.errors import RunError, UsageError
from neurons.specs import Batch, Loss

PATIENCE = timedelta(hours=2)  # the others wait while rank 0 evaluates
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launched() -> bool:
    """Whether ``torchrun`` (or whatever sets its variables) started this process as one of several."""
    return all(name in os.environ for name in VARIABLES) and _variable("WORLD_SIZE") > 1


def started() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """The number of this process, 0 of the one that writes; known before ``start``."""
    if started():
        return distributed.get_rank()
    return _variable("RANK") if launched() else 0


def size() -> int:
    """The number of processes that ``start`` has joined."""
    return distributed.get_world_size() if started() else 1


def own_gpu(count: int) -> int | None:
    """The index of the GPU, of ``count``, that this process takes; None where it is the only process."""
    if not launched():
        return None
    index = _variable("LOCAL_RANK", "RANK")
    if index >= count:
        raise UsageError(
            f"process {rank()} wants a GPU of its own, and torch sees {count}. "
            f"Try: torchrun --nproc-per-node {count}, or --device cpu"
        )
    return index


def start(device: torch.device) -> None:
    """Join the processes that ``torchrun`` started: by NCCL where they compute on CUDA, else by Gloo. Nothing happens
    in a single process, or where the caller has joined them already."""
    if started() or not launched():
        return
    if not distributed.is_available():
        raise UsageError("this torch is built without torch.distributed. Start one process, without torchrun")
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"several processes train on cpu or cuda, not on {device.type}. Try: --device cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:  # torch's DistError is a RuntimeError
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = str(error).strip().split("\n")[0]
        raise RunError(f"process {rank()} cannot join the others at {where}: {reason}") from error
    atexit.register(_leave)


def _leave() -> None:
    if started():
        distributed.destroy_process_group()


def reduce_max(value: float) -> float:
    """The largest ``value`` of all processes; NaN counts as infinite. What is derived from a process's own batch and
    then decides how all go on (a stationarity, a curvature, a rise of the energy, a signal) passes through here."""
    value = math.inf if math.isnan(value) else value
    if not started():
        return value
    shared = torch.tensor(value, dtype=torch.float64, device=_place())
    _all_reduce(shared, distributed.ReduceOp.MAX)
    return float(shared)


def agreed(what: str, value: float) -> None:
    """UsageError in every process unless all of them hold the same ``value``."""
    largest, smallest = reduce_max(value), -reduce_max(-value)
    if largest != smallest:
        raise UsageError(
            f"the processes disagree about {what}: from {smallest:g} to {largest:g}. Give it as a number, "
            "such as --steps 1000; what each process measures for itself differs"
        )


def share(batch: Batch) -> tuple[Batch, float]:
    """This process's slice of a global batch, and the weight of what it learns from it.

    Slices are consecutive, their sizes differ by one at most. A batch of fewer samples than processes goes to every
    process whole, and only rank 0's counts.
    """
    if size() == 1:
        return batch, 1.0
    if len(batch) < size():
        return batch, float(rank() == 0)
    first, last = (len(batch) * place // size() for place in (rank(), rank() + 1))
    mask = None if batch.mask is None else batch.mask[first:last]
    return replace(batch, x=batch.x[first:last], y=batch.y[first:last], mask=mask), 1.0


def reduce_step(parameters: Iterable[nn.Parameter], loss: Loss, weight: float) -> Loss:
    """Replace every ``.grad``, a mean over this process's ``loss.count`` targets, by the mean over the targets of all
    processes; returns the loss of the global batch.

        g = sum_r w_r n_r g_r / sum_r w_r n_r        n_r the count, w_r the ``weight`` of ``share``

    The counts differ where batches don't divide or sequences are padded, and a plain mean would be wrong there.
    """
    if size() == 1:
        return loss
    filled = [parameter.grad for parameter in parameters if parameter.grad is not None]
    mine = weight * loss.count
    head = torch.stack([loss.objective.detach().double() * weight, loss.reported.detach().double() * weight])
    totals = torch.cat([head.to(_place()), torch.tensor([mine], dtype=torch.float64, device=_place())])
    _all_reduce(totals)
    objective, reported, count = totals.to(loss.objective.device).unbind()
    for together in _by_kind(filled):
        flat = torch.cat([gradient.reshape(-1) for gradient in together])
        flat.mul_(mine)
        _all_reduce(flat)
        flat.div_(max(float(count), 1.0))
        for gradient, total in zip(together, flat.split([g.numel() for g in together]), strict=True):
            gradient.copy_(total.view_as(gradient))
    return Loss(objective, reported, int(count))


def spread(tensors: Iterable[Tensor]) -> None:
    """Overwrite ``tensors`` with those of rank 0."""
    if size() == 1:
        return
    for together in _by_kind(list(tensors)):
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in together])
        _broadcast(flat)
        for tensor, found in zip(together, flat.split([t.numel() for t in together]), strict=True):
            tensor.detach().copy_(found.view_as(tensor))


def spread_bytes(data: bytes | None) -> bytes | None:
    """What rank 0 holds: bytes, or None."""
    if size() == 1:
        return data
    length = torch.tensor(-1 if data is None else len(data), device=_place())
    _broadcast(length)
    if int(length) < 0:
        return None
    if rank() == 0:
        assert data is not None
        body = torch.frombuffer(bytearray(data), dtype=torch.uint8).to(_place())
    else:
        body = torch.empty(int(length), dtype=torch.uint8, device=_place())
    if len(body):
        _broadcast(body)
    return body.cpu().numpy().tobytes()


def spread_numbers(named: dict[str, float]) -> dict[str, float]:
    """What rank 0 holds."""
    if size() == 1:
        return named
    found: dict[str, float] = json.loads(spread_bytes(json.dumps(named).encode()) or b"{}")
    return found


def spread_model(model: nn.Module) -> None:
    """Parameters and buffers of rank 0."""
    if size() > 1:
        spread(model_tensors(model).values())


def spread_untrained(model: nn.Module) -> None:
    """The buffers of rank 0: running statistics and slow state, which every process changes by its own samples."""
    if size() > 1:
        learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        spread(tensor for name, tensor in model_tensors(model).items() if name not in learned)


def checkpoint_at(path: Path) -> Checkpoint | None:
    """What lies at ``path``, None where there is nothing; of several processes, what rank 0 finds there."""
    own = rank() == 0 and path.exists()
    if size() == 1:
        return load_checkpoint(path) if own else None
    data = spread_bytes(path.read_bytes() if own else None)
    if data is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(data)
        return load_checkpoint(copy)


def _all_reduce(tensor: Tensor, op: Any = None) -> None:
    try:
        distributed.all_reduce(tensor, op=distributed.ReduceOp.SUM if op is None else op)
    except RuntimeError as error:
        raise _alone() from error


def _broadcast(tensor: Tensor) -> None:
    try:
        distributed.broadcast(tensor, src=0)
    except RuntimeError as error:
        raise _alone() from error


def _alone() -> RunError:
    return RunError(f"process {rank()} lost the others: one of them has stopped. Its own message says why")


def _by_kind(tensors: list[Tensor]) -> list[list[Tensor]]:
    """In groups of one dtype and device, so that a group travels as one message."""
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return list(groups.values())


def _place() -> str:
    return "cuda" if distributed.get_backend() == "nccl" else "cpu"


def _variable(name: str, default: str | None = None) -> int:
    value = os.environ.get(name) or (os.environ.get(default) if default else None)
    try:
        return int(value or "")
    except ValueError:
        raise UsageError(f"{name} is a number where torchrun starts the processes, not {value!r}") from None
