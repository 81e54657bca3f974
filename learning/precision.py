"""Where and how precisely a model computes. Parameters and optimiser state stay float32."""

from __future__ import annotations

from typing import Literal

import torch

from learning.distributed import own_gpu
from neurons.errors import UsageError, nearest

Precision = Literal["float32", "bf16"]
DEVICES = ("auto", "cpu", "cuda", "mps")


def resolve_device(name: str) -> torch.device:
    """The device called ``name``: ``auto`` (CUDA, then MPS, then CPU), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    Of several processes each takes a GPU of its own, unless N says which.

    Raises UsageError if it is unknown or this machine lacks it.
    """
    kind, _, index = name.partition(":")
    if kind not in DEVICES or (index and not (kind == "cuda" and index.isdecimal())):
        raise UsageError(f"unknown device '{name}'.{nearest(name, DEVICES)} Use auto, cpu, cuda, cuda:N or mps")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not index and count:
            own = own_gpu(count)
            index = "" if own is None else str(own)
        if int(index or 0) >= count:
            raise UsageError(f"device '{name}' is not available: torch sees {count} CUDA devices. Try: --device auto")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"device '{name}' is not available on this machine. Try: --device auto")
    return torch.device(f"{kind}:{index}" if index else kind)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """A fresh context in which matrix products run in bfloat16, or in which nothing changes for ``float32``."""
    if precision not in ("float32", "bf16"):
        raise UsageError(f"unknown precision '{precision}'. Use float32 or bf16")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UsageError("this GPU has no bfloat16. Try: --precision float32")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
