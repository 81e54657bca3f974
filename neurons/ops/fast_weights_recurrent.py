"""Fast weights, one step after the other: the oracle of ``fast_weights.chunked``, with its equations and shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from neurons.ops.fast_weights import Rule


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
