"""Fast weights, one step after the other: the oracles of ``fast_weights.chunked`` and ``fast_weights_rls.rls_chunked``,
with their equations and shapes. ``before`` reads the (decayed) memory before the step's own write."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from neurons.ops.fast_weights import Rule
from neurons.ops.fast_weights_rls import Moments


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
    """Hebb and delta on several timescales."""
    if state is None:
        state = key.new_zeros(len(rate), *key.shape[:2], key.shape[-1], value.shape[-1])
    scale = (-1, 1, 1, 1, 1)
    read, write, keep = read.view(scale), write.view(scale), torch.exp(-rate.double()).view(scale)
    answers = []
    for k, v, q, real in _steps(key, value, query, mask):
        decayed = state * keep.to(state.dtype)
        known = (read * decayed).sum(0).to(key.dtype)
        error = v - k.transpose(-1, -2) @ known if rule == "delta" else v
        new = decayed + write * (k @ error)
        memory = known if before else (read * new).sum(0).to(key.dtype)
        answers.append((q @ memory * real).squeeze(-2))
        state = torch.where(real, new, state)
    return torch.stack(answers, 2), state


def rls_recurrent(
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
    """The textbook's recursion of discounted least squares."""
    precision, cross, phase = Moments.empty(key, value, ridge) if state is None else state
    discount = torch.exp(-rate.double()).item()
    inverse = torch.linalg.inv(precision)
    memory = inverse @ cross
    ridges = ridge * (1 - discount**period) * torch.eye(key.shape[-1], dtype=key.dtype, device=key.device)
    answers = []
    for k, v, q, real in _steps(key, value, query, mask):
        along = inverse @ k
        gain = along / (discount + k.transpose(-1, -2) @ along)
        new = memory + gain @ (v - k.transpose(-1, -2) @ memory)
        shrunk = (inverse - gain @ along.transpose(-1, -2)) / discount
        shrunk = (shrunk + shrunk.transpose(-1, -2)) / 2  # else rounding grows as lambda^-t
        answers.append((q @ (memory if before else new) * real).squeeze(-2))
        phase = phase + real.view(-1).long()
        due = real & (phase == period).view(-1, 1, 1, 1)
        if due.any():
            renewed = torch.linalg.inv(torch.linalg.inv(shrunk) + ridges)
            new = torch.where(due, renewed @ torch.linalg.solve(shrunk, new), new)
            shrunk = torch.where(due, renewed, shrunk)
            phase = phase % period
        memory, inverse = torch.where(real, new, memory), torch.where(real, shrunk, inverse)
    precision = torch.linalg.inv(inverse)
    return torch.stack(answers, 2), Moments(precision, precision @ memory, phase)


def _steps(
    key: Tensor, value: Tensor, query: Tensor | None, mask: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Of every step: k (B, H, d, 1), v (B, H, 1, e), q (B, H, 1, d) and whether it is real, (B, 1, 1, 1) bool."""
    query = key if query is None else query
    real = torch.ones(len(key), key.shape[2], dtype=torch.bool, device=key.device) if mask is None else mask
    for t in range(key.shape[2]):
        yield key[:, :, t, :, None], value[:, :, t, None, :], query[:, :, t, None, :], real[:, t].view(-1, 1, 1, 1)
