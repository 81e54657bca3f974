"""Fast weights by recursive least squares: the memory that fits everything written so far, the recent more.

    A(t) = lambda A(t-1) + k_t k_t^T,    B(t) = lambda B(t-1) + k_t v_t^T,    W(t) = A(t)^-1 B(t),    A(0) = ridge I
    one by one, P = A^-1:    g = P k / (lambda + k^T P k),    W += g (v - W^T k)^T,    P = (P - g (P k)^T) / lambda

Like the delta rule it writes what the memory does not know yet, but along P k instead of k: directions that other keys
use are spared, so correlated keys do not disturb each other. The price is the precision A, (d, d), beside B (d, e). It
is not a local rule in the strict sense: the gain of a synapse needs the whole matrix P.

The discount wears down the ridge too, and where no key comes P would grow as lambda^-t: 10^22 after a thousand steps at
.95. So every ``period`` steps of a sequence the ridge is renewed, A += (1 - lambda^period) ridge I, and
P <= lambda^-period / ridge for ever.

The oracle, one by one, is ``fast_weights_recurrent.rls_recurrent``. ``rls_chunked`` is exactly equal: A and B at the
``period`` boundaries are discounted sums, so one loop of additions. Inside a period, W is the mean of a Gaussian
process with the kernel matrix ``M = K P0 K^T + diag(lambda^s)`` (the observation s steps after the boundary has that
variance), and with M = L L^T the recursion's errors are e = diag(L) U, U = L^-1 (V - K W0): all chunks at once, one
Cholesky factor each.
Chunks begin at the same step of a sequence whatever was padded or streamed.

Sources: Plackett 1950; the dual form is the innovations form of the Kalman filter (Kailath 1968); fast weights of
this kind are von Oswald et al. 2023, 2025 (mesa layer).
Shapes: key, query (B, H, T, d); value (B, H, T, e); rate () with lambda = exp(-rate); mask (B, T) bool, True = real;
query None = the keys -> y (B, H, T, e), Moments.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Moments(NamedTuple):
    """What a sequence leaves: ``precision`` A (B, H, d, d), ``cross`` B (B, H, d, e), ``phase`` (B,) int64, the steps
    since the ridge was last renewed."""

    precision: Tensor
    cross: Tensor
    phase: Tensor

    @classmethod
    def empty(cls, key: Tensor, value: Tensor, ridge: float) -> Moments:
        """Before the first step of keys (B, H, T, d) and values (B, H, T, e): A = ridge I, B = 0."""
        batch, heads, _, width = key.shape
        eye = ridge * torch.eye(width, dtype=key.dtype, device=key.device)
        cross = key.new_zeros(batch, heads, width, value.shape[-1])
        phase = torch.zeros(batch, dtype=torch.int64, device=key.device)
        return cls(eye.expand(batch, heads, width, width), cross, phase)

    def weights(self) -> Tensor:
        """W = A^-1 B, (B, H, d, e)."""
        return torch.cholesky_solve(self.cross, torch.linalg.cholesky(self.precision))

    def detach(self) -> Moments:
        return Moments(*(x.detach() for x in self))


def rls_chunked(
    key: Tensor,
    value: Tensor,
    query: Tensor | None = None,
    *,
    rate: Tensor,
    ridge: float = 0.001,
    period: int = 64,
    before: bool = False,
    mask: Tensor | None = None,
    state: Moments | None = None,
) -> tuple[Tensor, Moments]:
    """``period`` steps at once. ``before`` reads the memory before the step's own write."""
    steps, dtype = key.shape[2], key.dtype
    own = query is None and before  # then the answer is what the error subtracts
    query = None if own else key if query is None else query
    slots, ticks = _slots(mask, state, steps, period, key.device)
    sizes = (ticks.shape[-2], period)
    k, v = (_place(x, slots, sizes) for x in (key, value))

    clock = ticks.cumsum(-1)  # real steps from the chunk's start, (1 or B, M, C), float64
    length = clock[..., -1]
    rate = rate.double()
    noise = torch.exp(-rate * clock).to(dtype).unsqueeze(1)
    late = torch.exp(-rate * (length.unsqueeze(-1) - clock)).to(dtype)[:, None, :, :, None]
    renewal = ridge * (1 - torch.exp(-rate * period))
    gained = (k * late).transpose(-1, -2) @ torch.cat([k, v], -1)  # of A and B in every chunk, (B, H, M, d, d + e)
    start = Moments.empty(key, value, ridge) if state is None else state
    renewed = (ticks[..., -1] * renewal).to(dtype)  # a chunk whose last slot is taken is complete
    starts, end = _walk(start, gained, torch.exp(-rate * length).to(dtype), renewed)
    final = Moments(*end, (start.phase + ticks.sum((-1, -2)).long()) % period)

    # Everything through G^-1, A = G G^T: K P0 K^T = (G^-1 K^T)^T (G^-1 K^T) stays symmetric and positive.
    right = [k.transpose(-1, -2), starts[..., key.shape[-1] :]]
    if query is not None:
        right.append(_place(query, slots, sizes).transpose(-1, -2))
    if state is None and k.shape[2] == 1:
        solved = torch.cat(right, -1) * ridge**-0.5
    else:
        factor = torch.linalg.cholesky(starts[..., : key.shape[-1]])
        solved = torch.linalg.solve_triangular(factor, torch.cat(right, -1), upper=False)
    keys, weights, *queries = solved.split([part.shape[-1] for part in right], -1)
    kernel = keys.transpose(-1, -2) @ keys + torch.diag_embed(noise)
    root = torch.linalg.cholesky(kernel)
    surprise = v - keys.transpose(-1, -2) @ weights
    if own:
        unit = torch.linalg.solve_triangular(root, surprise, upper=False)
        answer = v - root.diagonal(dim1=-2, dim2=-1).unsqueeze(-1) * unit
    else:
        across = keys.transpose(-1, -2) @ queries[0]  # (k_s, q_t)
        both = torch.linalg.solve_triangular(root, torch.cat([across, surprise], -1), upper=False)
        scores, unit = both.split([across.shape[-1], v.shape[-1]], -1)
        scores = scores.transpose(-1, -2).tril(-1 if before else 0)
        answer = queries[0].transpose(-1, -2) @ weights + scores @ unit
    return _take(answer, slots, steps), final


def _walk(start: Moments, gained: Tensor, whole: Tensor, renewed: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """[A, B] at the start of every chunk, (B, H, M, d, d + e), and A and B after the last."""
    state = torch.cat([start.precision, start.cross], -1).to(gained.dtype)
    width = state.shape[-2]
    identity = torch.eye(width, state.shape[-1], dtype=state.dtype, device=state.device)
    starts = []
    parts = (x.unbind(-1) for x in (whole[:, None, None, None], renewed[:, None, None, None]))
    for gain, kept, ridge in zip(gained.unbind(2), *parts, strict=True):
        starts.append(state)
        state = state * kept + gain + identity * ridge
    return torch.stack(starts, 2), (state[..., :width], state[..., width:])


def _slots(
    mask: Tensor | None, state: Moments | None, steps: int, period: int, device: torch.device
) -> tuple[Tensor | None, Tensor]:
    """Where each step goes, (B, T), None for in order, a masked one behind the last slot; and whether a slot of the
    M chunks is taken, (1 or B, M, period) float64."""
    chunks = -(-(steps + (0 if state is None else period - 1)) // period)
    if state is None and mask is None:
        ticks = torch.ones(1, steps, dtype=torch.float64, device=device)
        return None, F.pad(ticks, (0, chunks * period - steps)).unflatten(1, (chunks, period))
    if mask is None:
        assert state is not None
        mask = torch.ones(len(state.phase), steps, dtype=torch.bool, device=device)
    places = mask.long().cumsum(1) - 1
    if state is not None:
        places = places + state.phase[:, None]
    slots = places.masked_fill(~mask, chunks * period)
    ticks = torch.zeros(len(mask), chunks * period + 1, dtype=torch.float64, device=device).scatter(1, slots, 1.0)
    return slots, ticks[:, :-1].unflatten(1, (chunks, period))


def _place(x: Tensor, slots: Tensor | None, sizes: tuple[int, int]) -> Tensor:
    """(B, H, T, .) -> (B, H, M, period, .), zeros in free slots."""
    chunks, period = sizes
    if slots is None:
        return F.pad(x, (0, 0, 0, chunks * period - x.shape[2])).unflatten(2, (chunks, period))
    empty = x.new_zeros(*x.shape[:2], chunks * period + 1, x.shape[-1])
    index = slots[:, None, :, None].expand(x.shape)
    return empty.scatter(2, index, x)[:, :, :-1].unflatten(2, (chunks, period))


def _take(answer: Tensor, slots: Tensor | None, steps: int) -> Tensor:
    """(B, H, M, period, e) -> (B, H, T, e), zeros at masked steps."""
    flat = answer.flatten(2, 3)
    if slots is None:
        return flat[:, :, :steps]
    index = slots[:, None, :, None].expand(*flat.shape[:2], steps, flat.shape[-1])
    return F.pad(flat, (0, 0, 0, 1)).gather(2, index)
