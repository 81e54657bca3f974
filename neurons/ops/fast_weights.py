"""Fast weights: an outer-product memory on several timescales, written and read along a sequence.

    W_i(t) = lambda_i W_i(t-1) + eta_i k_t e_t^T,    lambda_i = exp(-rate_i),    y_t = sum_i a_i W_i(t)^T q_t
    Hebb: e = v.    Delta: e = v - sum_i a_i lambda_i W_i(t-1)^T k   (what the memory does not know yet)

``chunked`` is the parallel form; the oracle, step by step, is ``fast_weights_recurrent.recurrent``. All scales share
the write, so inside a chunk the pair (t, s) has weight ``D(t-s) = sum_i a_i eta_i lambda_i^(t-s)``, and the delta rule
is one triangular solve, ``E = (I + tril(K K^T . D, -1))^-1 (V - carry)``; between chunks a state per scale is carried.

Rates are ``dt / tau`` and every decay is exp(-rate * steps) in float64: lambda = 1 - 1e-8 is exactly 1 in float32. A
state is kept in the dtype it comes in; give float64 for scales slower than about 1e5 steps. The delta rule needs unit
keys and 0 < sum a_i eta_i < 2. A masked step takes no time: it reads zero, writes nothing and nothing decays, so a
padded sequence gives the same answers and the same final state as the bare one.

Sources: Ba et al. 2016 (Hebb), Schlag et al. 2021 (delta), Yang et al. 2024 (chunked delta rule).
Shapes: key, query (B, H, T, d); value (B, H, T, e); rate, write (eta), read (a): (n,); mask (B, T) bool, True = real;
query None = the keys; state (n, B, H, d, e) or None for zeros -> y (B, H, T, e), final state (None if not asked for).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Rule = Literal["hebb", "delta"]


def decay_rate(dt: float, tau: float) -> Tensor:
    """dt / tau as a float64 scalar tensor; the decay over n steps is ``exp(-n * rate)``."""
    return torch.tensor(dt / tau, dtype=torch.float64)


def chunked(
    key: Tensor,
    value: Tensor,
    query: Tensor | None = None,
    *,
    rate: Tensor,
    write: Tensor,
    read: Tensor,
    rule: Rule = "hebb",
    before: bool = False,
    mask: Tensor | None = None,
    state: Tensor | None = None,
    final: bool = True,
    chunk: int = 64,
) -> tuple[Tensor, Tensor | None]:
    """``chunk`` steps at once; a sequence no longer than that is one dense chunk.

    ``before`` reads the decayed memory before the step's own write. ``final`` False spares the final state.
    """
    steps, width = key.shape[2:]
    dtype, size = key.dtype, min(chunk, steps)
    if mask is not None:
        real = mask[:, None, :, None]
        key = key * real  # a silent key writes nothing, whatever the value
        query = None if query is None else query * real
    k, v = (_chunks(x, size) for x in (key, value))
    q = k if query is None else _chunks(query, size)
    clock = _clock(mask, steps, size, key.device)  # (1 or B, M, C)
    length = clock[..., -1]

    # Every decay is exp(-rate * n) of a whole number n <= C of steps: a table, looked up by n.
    decay = torch.exp(-rate.double()[:, None] * torch.arange(size + 1, device=key.device)).to(dtype)
    pairs = _pair_weights((write * read).to(dtype) @ decay, clock, strict=before)
    since = decay[:, clock].unsqueeze(2).unsqueeze(-1)  # from the chunk's start, (n, 1 or B, 1, M, C, 1)
    alone = state is None and k.shape[2] == 1  # one chunk that starts from zero

    # Delta: E = V' - sum_i a_i K'_i W_i, both solved for all chunks at once, so that the loop below only multiplies.
    error, keys, overlap = v, None, None
    if rule == "delta":
        overlap = k @ k.transpose(-1, -2)
        within = overlap * (pairs if before else pairs.tril(-1))
        right = v if alone else torch.cat([v, *(k * since)], -1)
        error = torch.linalg.solve_triangular(within, right, upper=False, unitriangular=True)
        if not alone:
            error, *parts = error.split([v.shape[-1]] + [width] * len(rate), -1)
            keys = torch.stack(parts)

    starts = None
    if not alone or final:
        until = decay[:, length.unsqueeze(-1) - clock] * write.to(dtype)[:, None, None, None]
        late = k * until.unsqueeze(2).unsqueeze(-1)
        state, starts, error = _carry(state, error, keys, late, torch.exp(-rate.double()[:, None, None] * length), read)
    if rule == "delta" and before and query is None:
        answer = v - error  # the answer to k_t is what the delta rule subtracts
    else:
        if query is not None:
            overlap = q @ k.transpose(-1, -2)
        elif overlap is None:
            overlap = k @ k.transpose(-1, -2)
        answer = (overlap * pairs) @ error
        if starts is not None:
            factor = read.to(dtype).view(-1, 1, 1, 1, 1, 1)
            answer = answer + ((q * since) @ (factor * starts)).sum(0)
    return answer.flatten(2, 3)[:, :, :steps], state if final else None


def _pair_weights(weight: Tensor, clock: Tensor, *, strict: bool) -> Tensor:
    """D(t - s) of read t and write s, zero above the diagonal (and on it, if ``strict``): weight (C + 1,) by lag,
    clock (1 or B, M, C) -> (1 or B, 1, M, C, C)."""
    size = clock.shape[-1]
    future = torch.ones(size, size, dtype=torch.bool, device=clock.device).triu(0 if strict else 1)
    lag = (clock.unsqueeze(-1) - clock.unsqueeze(-2)).masked_fill(future, size + 1)
    return F.pad(weight, (0, 1))[lag].unsqueeze(1)


def _carry(
    state: Tensor | None, error: Tensor, keys: Tensor | None, late: Tensor, whole: Tensor, read: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Walk over the chunks. Returns the final state, the state at each chunk's start (None if there is one chunk
    that starts from zero) and the errors that were written.

    error (B, H, M, C, e), keys and late (n, B, H, M, C, d), whole (n, 1 or B, M) float64.
    """
    if state is None and error.shape[2] == 1:
        return late[:, :, :, 0].transpose(-1, -2) @ error[:, :, 0], None, error
    if state is None:
        state = error.new_zeros(*late.shape[:3], late.shape[-1], error.shape[-1])
    factor = read.to(error.dtype).view(-1, 1, 1, 1, 1)
    # Unbound once: the gradient of an indexed chunk is a tensor of all chunks, quadratic in their number.
    kept = whole.to(state.dtype)[:, :, None, None, None].unbind(-1)
    starts, errors = [], []
    if keys is None:
        for gained, decay in zip((late.transpose(-1, -2) @ error).unbind(3), kept, strict=True):
            starts.append(state.to(error.dtype))
            state = state * decay + gained.to(state.dtype)
        return state, torch.stack(starts, 3), error
    parts = (late.transpose(-1, -2).unbind(3), keys.unbind(3), error.unbind(2), kept)
    for into, known, e, decay in zip(*parts, strict=True):
        starts.append(state.to(error.dtype))
        errors.append(e - (known @ (factor * starts[-1])).sum(0))
        state = state * decay + (into @ errors[-1]).to(state.dtype)
    return state, torch.stack(starts, 3), torch.stack(errors, 2)


def _chunks(x: Tensor, size: int) -> Tensor:
    """(B, H, T, .) -> (B, H, M, size, .), the last chunk filled up with zeros."""
    missing = -x.shape[2] % size
    return (F.pad(x, (0, 0, 0, missing)) if missing else x).unflatten(2, (-1, size))


def _clock(mask: Tensor | None, steps: int, size: int, device: torch.device) -> Tensor:
    """Real steps from a chunk's start up to and with each step, (1 or B, M, size) int64."""
    if mask is None:
        mask = torch.ones(1, steps, dtype=torch.bool, device=device)
    return F.pad(mask.long(), (0, -steps % size)).unflatten(1, (-1, size)).cumsum(-1)
