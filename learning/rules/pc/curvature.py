"""The largest curvature of an energy, by power iteration on differences of its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

ITERATIONS = 40
SMALL = 1e-24  # its root is far from the ends of float32
CHANGE = 0.002  # a relative change below this ends the iteration


@torch.no_grad()
def largest_curvature(
    direction: Callable[[], list[Tensor]], point: list[Tensor], weights: list[float], about: list[Tensor]
) -> float:
    """Largest eigenvalue of ``P^-1 H`` at ``point``, with H the Hessian of E, P = diag(weights) and
    ``direction() = -P^-1 dE/d point`` at the current values of the tensors in ``point``.

    ``H v ~ P (direction(point) - direction(point + h v)) / h``: it needs first derivatives only, so any stage will do,
    and its vector-Jacobian products are the local ones. The estimate approaches the eigenvalue from below. The tensors
    of ``point`` are moved in place and put back; h is a small share of the size of the states ``about`` it.
    """
    kept = [x.detach().clone() for x in point]
    generator = torch.Generator().manual_seed(0)
    v = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype).to(x.device) for x in kept]
    v = [x / math.sqrt(max(weight, SMALL)) for x, weight in zip(v, weights, strict=True)]  # no stage outweighs others
    entries = sum(x.numel() for x in kept)
    scale = math.sqrt(sum(float(x.square().sum()) for x in about) / entries)
    h = math.sqrt(torch.finfo(kept[0].dtype).eps) * max(scale, 1e-3)
    size = 1.0 / math.sqrt(entries)

    def norm(vector: list[Tensor]) -> float:
        squares = [w * x.square().sum() for w, x in zip(weights, vector, strict=True)]
        return float(torch.stack(squares).sum().sqrt()) * size

    found = 0.0
    with torch.enable_grad():
        here = direction()
    try:
        for _ in range(ITERATIONS):
            length = norm(v)
            if not length or not math.isfinite(length):
                break
            v = list(torch._foreach_div(v, length))
            for x, start, step in zip(point, kept, v, strict=True):
                x.copy_(start + h * step)
            with torch.enable_grad():
                there = direction()
            v = [(a - b) / h for a, b in zip(here, there, strict=True)]
            before, found = found, norm(v)
            if abs(found - before) <= CHANGE * found:
                break
    finally:
        for x, start in zip(point, kept, strict=True):
            x.copy_(start)
    return found
