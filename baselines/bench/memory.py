"""Memory of a training call over the length: what is kept for the backward pass, and the peak."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.bench import contenders
from baselines.bench.contenders import Group
from baselines.bench.job import Forecast, Job, Row, affordable, measure
from baselines.bench.setting import Setting
from baselines.bench.speed import GROUPS
from baselines.measure import peak_memory_bytes, reset_peak_memory


def jobs(setting: Setting, groups: tuple[Group, ...] = GROUPS) -> list[Job]:
    """Causal, by length."""
    forecast = Forecast()
    return [
        Job(f"{group}s, memory at {length:,}", partial(_point, setting, forecast, group, length))
        for length in sorted(setting.lengths)
        for group in groups
        if contenders.names(group, setting, True)
    ]


def _point(setting: Setting, forecast: Forecast, group: Group, length: int, seconds: float) -> list[Row]:
    def once(name: str, at: int) -> float:
        call = contenders.contender(group, name, setting, at, True).call("train")
        return measure({name: call}, replace(setting, repeats=1), 0.0)[name].least

    gc.collect()  # what is still to be freed must not be freed within a measurement
    rows: list[Row] = []
    names = contenders.names(group, setting, True)
    refused = {name: contenders.refusal(name, setting, length) for name in names}
    able = [name for name in names if refused[name] is None]
    refused |= affordable({n: forecast.approach((group, n), length, seconds, partial(once, n)) for n in able}, seconds)
    for name in names:
        row: Row = {"group": group, "form": "causal", "length": length, "name": name, "skipped": refused[name]}
        row |= {"saved_bytes": None, "peak_bytes": None, "reference": contenders.REFERENCE[group]}
        if refused[name] is None:
            one = contenders.contender(group, name, setting, length, True)
            row["saved_bytes"] = saved_bytes(one.forward, one.parameters)
            call = one.call("train")
            call()  # libraries and threads take their time, and memory of their own, at the first call
            begun = time.perf_counter()
            row["peak_bytes"] = peak_bytes(call, torch.device(setting.device))
            forecast.learn((group, name), length, time.perf_counter() - begun)
        rows.append(row)
    reference = next((row["saved_bytes"] for row in rows if row["name"] == contenders.REFERENCE[group]), None)
    for row in rows:
        known = reference is not None and row["saved_bytes"] is not None
        row["ratio"] = reference / row["saved_bytes"] if known else None
    return rows


def saved_bytes(forward: Callable[[], Any], parameters: Iterable[Tensor] = ()) -> int:
    """Bytes that ``forward()`` keeps for the backward pass, its inputs among them, ``parameters`` not; each storage
    once."""
    held = {tensor.untyped_storage().data_ptr() for tensor in parameters}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()  # alive until here, so that no storage is freed and its address used again
    del output
    return sum(saved.values())


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int | None:
    """Most memory that one ``call()`` takes beyond what was held before it; None where the system does not tell."""
    _give_back()
    if device.type == "cuda":
        before: int | None = torch.cuda.memory_allocated(device)
    else:
        before = _resident()
    if before is None:
        return None
    reset_peak_memory(device)
    result = call()
    peak = peak_memory_bytes(device)
    del result
    return max(0, peak - before)


def _give_back() -> None:
    """glibc keeps what was freed; then the next call would seem to take nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _resident() -> int | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
    return 1024 * int(line.split()[1])
