"""Cheap pointwise chains are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[..., Any], *inputs: Tensor | None) -> Any:
    """``function(*inputs)``; only ``inputs`` are kept for the backward pass. ``function`` draws no random numbers."""
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs):
        return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return function(*inputs)
