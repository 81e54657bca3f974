"""What the forms of coherence attention by mean fields share: the plan, and denominators. No autograd.

Shapes: b rows, H heads, P chunks of C tokens, G = b H P.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

SILENCE = 1e-13  # of the weight at hand: what float64 leaves of a sum that cancels
LEAST = 1e-30  # denominators whose inverse, and what it is multiplied with, float32 still holds


class Plan(NamedTuple):
    """What is computed. coefficients c_0 .. c_M; fast_order: as many harmonics serve 1e-6 where float32 does. kappa: of
    von Mises, in closed form inside chunks, for points of the unit circle; 0 takes the series. leak: () or a factor per
    head. floor: the least denominator of a real token; 0 for queries with points of their own, to which none is sure.
    """

    coefficients: tuple[float, ...]
    fast_order: int
    kappa: float
    leak: tuple[float, ...]
    causal: bool
    floor: float


class Stretch(NamedTuple):
    """u (G, C, 2): points.     v (G, C, D): values.     p (G, C, M): z^1 .. z^M, complex.     f, q (G, C, F): features
    of a token as a key and, with the coefficients' signs, as a query.     hidden (b, P C): True where a token does not
    count; it is zero in v and f.     shape: (b, H, P, C).     asking, asking_p: u and p of queries with points of their
    own, else None."""

    u: Tensor
    v: Tensor
    p: Tensor | None
    f: Tensor | None
    q: Tensor | None
    hidden: Tensor | None
    shape: tuple[int, int, int, int]
    asking: Tensor | None
    asking_p: Tensor | None


class Chunks(Protocol):
    """shape: (b, H, P, C).     hidden (b, P C): True where a token does not count, or None."""

    @property
    def shape(self) -> tuple[int, int, int, int]: ...
    @property
    def hidden(self) -> Tensor | None: ...


def inverse_of(den: Tensor, total: Tensor | None, s: Chunks, plan: Plan) -> Tensor:
    """1 / den (G, C, 1), in place; zero for tokens that do not count, and for queries that hear nothing.

    ``total``, (G, C, 1) or (G, 1, 1), is the weight of the keys in fields. Sums below SILENCE of it are rounding.
    """
    if plan.floor:
        den.clamp_min_(plan.floor)
    else:
        least = LEAST if plan.kappa else SILENCE * sum(plan.coefficients)
        den.masked_fill_(den <= (least if total is None else least + SILENCE * total), torch.inf)
    if s.hidden is not None:
        den.view(*s.shape).masked_fill_(s.hidden.view(s.shape[0], 1, *s.shape[2:]), torch.inf)
    return den.reciprocal_()
