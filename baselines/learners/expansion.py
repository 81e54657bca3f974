"""A fixed sparse code: many random receptive fields, of which the few strongest answer."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from neurons.errors import UsageError
from neurons.specs import InputSpec


class SparseExpansion:
    """b_u = 1 for the ``winners`` units of largest h_u = w_u . x, else 0: features (B, T, F) -> bits (B, units).

    w_u is normal, its mean over the receptive field taken away. ``patch``: the field of a unit is a random
    ``patch`` x ``patch`` square of the picture, all channels; None: every place. As w_u has mean 0 and only the order
    of the h_u counts, the code does not see the level or the contrast of an input, so it needs no statistics of the
    data, which would hang on what came first. Drawn by ``seed``, never trained.

    The expansion of the fly's mushroom body (Dasgupta, Stevens & Navlakha 2017). Pictures are T = side rows of side
    times channels levels; UsageError for other inputs with a ``patch``, and for winners that cannot be.
    """

    def __init__(self, input: InputSpec, *, units: int, winners: int, patch: int | None, seed: int) -> None:
        if input.kind != "features":
            raise UsageError(f"a sparse code reads features, not {input.kind}. Try a stream of pictures")
        assert input.length is not None
        if not 1 <= winners < units:
            raise UsageError(f"{winners} of {units} units cannot win; choose 1 to {units - 1}")
        self.units, self.winners = units, winners
        random = torch.Generator().manual_seed(seed)
        places = input.length * input.size
        if patch is None:
            weight = torch.randn(units, places, generator=random)
            self.weight = weight - weight.mean(1, keepdim=True)
            return
        side = input.length
        if input.size % side or not 2 <= patch <= side:
            have = f"{side} x {input.size} levels"
            raise UsageError(f"patch={patch} does not fit an input of {have}: a square picture needs 2 to its side")
        channels = input.size // side
        corner = torch.randint(side - patch + 1, (units, 2), generator=random)
        field = torch.randn(units, patch, patch, channels, generator=random)
        field -= field.mean((1, 2, 3), keepdim=True)
        reach = torch.arange(patch)
        row, column = corner[:, :1] + reach, corner[:, 1:] + reach
        weight = torch.zeros(units, side, side, channels)
        weight[torch.arange(units)[:, None, None], row[:, :, None], column[:, None, :]] = field
        self.weight = weight.flatten(1)

    def __call__(self, x: Tensor) -> Tensor:
        """Bits (B, units) as float32 zeros and ones."""
        response = x.flatten(1) @ self.weight.T
        return torch.zeros_like(response).scatter_(1, response.topk(self.winners, 1, sorted=False).indices, 1.0)


def share_of(units: int, share: float) -> int:
    """How many units win; UsageError unless ``share`` is above 0 and below 1."""
    if not 0 < share < 1:
        raise UsageError(f"winners is the share of the units that win, between 0 and 1, not {share}. Try: winners=0.02")
    return max(1, math.floor(share * units + 0.5))
