"""Kuramoto-Daido order parameters: how many clusters the phases of oscillators form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from neurons.errors import UsageError


def order_parameters(x: Tensor, y: Tensor, mask: Tensor | None, orders: Sequence[int]) -> Tensor:
    """``R_m = |mean_i z_i^m|`` (B, H, len(orders)) over the real tokens of x, y (B, H, T), z = x + iy; mask (B, T).

    R_1 is Kuramoto's: 1 in synchrony, of the size T^(-1/2) for independent phases. m clusters, equally apart, have
    R_1 .. R_(m-1) = 0 and R_m = 1 (Daido 1992). A row without real tokens has R = 0. No gradient. UsageError for an
    order below 1.
    """
    if min(orders) < 1:
        raise UsageError(f"an order parameter has an order of 1 or more, not {min(orders)}. Try: orders=(1, 2)")
    wide = torch.float32 if x.device.type == "mps" else torch.float64
    z = torch.complex(x.detach().to(wide), y.detach().to(wide))
    count: Tensor | int = z.shape[-1]
    if mask is not None:
        z = z.masked_fill(~mask[:, None], 0)
        count = mask.sum(-1, keepdim=True).clamp_min(1)
    return torch.stack([(z**m).sum(-1).abs() / count for m in orders], -1).float()
