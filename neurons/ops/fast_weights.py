"""Fast weights: an outer-product memory on several timescales, written and read along a sequence.

    W_i(t) = lambda_i W_i(t-1) + eta_i k_t e_t^T,    lambda_i = exp(-rate_i),    y_t = sum_i a_i W_i(t)^T q_t
    Hebb: e = v.    Delta: e = v - sum_i a_i lambda_i W_i(t-1)^T k   (what the memory does not know yet)

``recurrent`` is the oracle, ``chunked`` the parallel form. All scales share the write, so inside a chunk the pair
(t, s) has weight ``D(t-s) = sum_i a_i eta_i lambda_i^(t-s)``, and the delta rule is one triangular solve,
``E = (I + tril(K K^T . D, -1))^-1 (V - carry)``; between chunks one state per scale is carried.

Rates are ``dt / tau`` and every decay is exp(-rate * steps) in float64: lambda = 1 - 1e-8 is exactly 1 in float32. A
state is kept in the dtype it comes in; give float64 for scales slower than about 1e5 steps. The delta rule needs unit
keys and 0 < sum a_i eta_i < 2. A masked step takes no time: it reads zero, writes nothing and nothing decays, so a
padded sequence gives the same answers and the same final state as the bare one.

Sources: Ba et al. 2016 (Hebb), Schlag et al. 2021 (delta), Yang et al. 2024 (chunked delta rule).
Shapes: key, query (B, H, T, d); value (B, H, T, e); rate, write (eta), read (a): (n,); mask (B, T) bool, True = real;
query None = the keys; state (n, B, H, d, e) or None for zeros -> y (B, H, T, e), final state.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Rule = Literal["hebb", "delta"]


def decay_rate(dt: float, tau: float) -> Tensor:
    """dt / tau as a float64 scalar tensor; the decay over n steps is ``exp(-n * rate)``."""
    return torch.tensor(dt / tau, dtype=torch.float64)


def recurrent(
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
) -> tuple[Tensor, Tensor]:
    """One step after the other. ``before`` reads the decayed memory before the step's own write."""
    batch, heads, steps, width = key.shape
    query = key if query is None else query
    if state is None:
        state = key.new_zeros(len(rate), batch, heads, width, value.shape[-1])
    if mask is None:
        mask = key.new_ones(batch, steps, dtype=torch.bool)
    scale = (-1, 1, 1, 1, 1)
    read, write = read.view(scale), write.view(scale)
    answers = []
    for t in range(steps):
        real = mask[:, t].view(1, -1, 1, 1, 1)
        k, v, q = key[:, :, t, :, None], value[:, :, t, None, :], query[:, :, t, None, :]
        decayed = state * torch.exp(-rate.double()).view(scale).to(state.dtype)
        known = (read * decayed).sum(0).to(key.dtype)
        error = v - k.transpose(-1, -2) @ known if rule == "delta" else v
        new = decayed + write * (k @ error)
        memory = known if before else (read * new).sum(0).to(key.dtype)
        answers.append((q @ memory * real[0]).squeeze(-2))
        state = torch.where(real, new, state)
    return torch.stack(answers, 2), state


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
    chunk: int = 64,
) -> tuple[Tensor, Tensor]:
    """The same, ``chunk`` steps at once; a sequence no longer than that is one dense chunk."""
    steps, width = key.shape[2:]
    dtype, size = key.dtype, min(chunk, steps)
    if mask is not None:
        real = mask[:, None, :, None]
        key = key * real  # a silent key writes nothing, whatever the value
        query = None if query is None else query * real
    k, v = (_chunks(x, size) for x in (key, value))
    q = k if query is None else _chunks(query, size)
    clock, length = _clocks(mask, steps, size, key.device)  # (1 or B, M, C), (1 or B, M)
    rate = rate.double().view(-1, 1, 1, 1)

    lag = (clock.unsqueeze(-1) - clock.unsqueeze(-2)).clamp(min=0)  # steps from write s to read t, (., M, C, C)
    weight = (write * read).to(dtype).view(-1, 1, 1, 1, 1)
    pairs = (weight * torch.exp(-rate.unsqueeze(-1) * lag).to(dtype)).sum(0).unsqueeze(1)
    since = torch.exp(-rate * clock).to(dtype).unsqueeze(2).unsqueeze(-1)  # from the chunk's start, (n, ., 1, M, C, 1)
    until = torch.exp(-rate * (length.unsqueeze(-1) - clock)).to(dtype).unsqueeze(2).unsqueeze(-1)
    whole = torch.exp(-rate[..., 0] * length)  # (n, ., M), float64

    # Delta: E = V' - sum_i a_i K'_i W_i, both solved for all chunks at once, so that the loop below only multiplies.
    error, keys = v, None
    if rule == "delta":
        within = ((k @ k.transpose(-1, -2)) * pairs).tril(-1)
        if state is None and k.shape[2] == 1:
            error = torch.linalg.solve_triangular(within, v, upper=False, unitriangular=True)
        else:
            right = torch.cat([v, *(k * since)], -1)
            solved = torch.linalg.solve_triangular(within, right, upper=False, unitriangular=True)
            error, *parts = solved.split([v.shape[-1]] + [width] * len(rate), -1)
            keys = torch.stack(parts)

    late = k * (until * write.to(dtype).view(-1, 1, 1, 1, 1, 1))
    state, starts, error = _carry(state, error, keys, late, whole, read)
    if rule == "delta" and before and query is None:
        return (v - error).flatten(2, 3)[:, :, :steps], state  # the answer to k_t is what the delta rule subtracts
    scores = ((q @ k.transpose(-1, -2)) * pairs).tril(-1 if before else 0)
    answer = scores @ error
    if starts is not None:
        factor = read.to(dtype).view(-1, 1, 1, 1, 1, 1)
        answer = answer + ((q * since) @ (factor * starts)).sum(0)
    return answer.flatten(2, 3)[:, :, :steps], state


def _carry(
    state: Tensor | None, error: Tensor, keys: Tensor | None, late: Tensor, whole: Tensor, read: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Walk over the chunks. Returns the final state, the state at each chunk's start (None if there is one chunk
    that starts from zero) and the errors that were written.

    error (B, H, M, C, e), keys and late (n, B, H, M, C, d), whole (n, 1 or B, M).
    """
    if state is None and error.shape[2] == 1:
        return late[:, :, :, 0].transpose(-1, -2) @ error[:, :, 0], None, error
    if state is None:
        state = error.new_zeros(*late.shape[:3], late.shape[-1], error.shape[-1])
    factor = read.to(error.dtype).view(-1, 1, 1, 1, 1)
    starts, errors = [], []
    for m in range(error.shape[2]):
        start = state.to(error.dtype)
        e = error[:, :, m]
        if keys is not None:
            e = e - (keys[:, :, :, m] @ (factor * start)).sum(0)
        gained = late[:, :, :, m].transpose(-1, -2) @ e
        state = state * whole[..., m].to(state.dtype)[:, :, None, None, None] + gained.to(state.dtype)
        starts.append(start)
        errors.append(e)
    return state, torch.stack(starts, 3), torch.stack(errors, 2)


def _chunks(x: Tensor, size: int) -> Tensor:
    """(B, H, T, .) -> (B, H, M, size, .), the last chunk filled up with zeros."""
    missing = -x.shape[2] % size
    return (torch.nn.functional.pad(x, (0, 0, 0, missing)) if missing else x).unflatten(2, (-1, size))


def _clocks(mask: Tensor | None, steps: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Real steps from a chunk's start up to and with each step, and in the whole chunk; float64."""
    if mask is None:
        mask = torch.ones(1, steps, dtype=torch.bool, device=device)
    ticks = torch.nn.functional.pad(mask.double(), (0, -steps % size)).unflatten(1, (-1, size))
    clock = ticks.cumsum(-1)
    return clock, clock[..., -1]
