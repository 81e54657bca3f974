"""Engrams: an associative memory of the stream's own past, addressed by sparse codes, read as a modern Hopfield net."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurons.errors import UsageError
from neurons.manifold.recompute import recomputed
from neurons.manifold.sdr import chosen, threshold
from neurons.specs import Context, zero_masked

QUERIES = 256  # tokens whose dense codes exist at a time


class Engrams(NamedTuple):
    """What one stream has stored: bits (B, S, active) int16, grade (B, S, active), value (B, S, D), mask (B, S)."""

    bits: Tensor
    grade: Tensor
    value: Tensor
    mask: Tensor


def graded_overlap(query: tuple[Tensor, Tensor], stored: tuple[Tensor, Tensor], size: int) -> Tensor:
    """sum over shared bits of both grades: (index, grade) of (B, T, w) and (B, S, w) -> (B, T, S), O(B T S w).

    Each query is spread over ``size`` bits and the stored sets are summed out of it, as embedding bags: no product of
    dense codes, which would cost size / w times as much.
    """
    (index, grade), (theirs, weights) = query, stored
    batch, steps = index.shape[:2]
    dense = grade.new_zeros(batch, steps, size).scatter(-1, index.long(), grade)
    table = dense.transpose(1, 2).reshape(batch * size, steps)
    offset = torch.arange(batch, device=index.device)[:, None, None] * size
    rows = (theirs.long() + offset).flatten(0, 1)
    found = F.embedding_bag(rows, table, per_sample_weights=weights.flatten(0, 1).to(table.dtype), mode="sum")
    return found.view(batch, -1, steps).transpose(1, 2)


class SDREngramMemory(nn.Module):
    """Each token looks for similar ones before it and hears what followed them: (B, T, D) -> an update (B, T, D).

        code_t = top-k of S x_t with grades a,   o_ts = overlap(code_t, code_s) / active
        y_t = gate * U sum_s softmax_s(beta (o_ts - theta)) V x_{s + trail},   s + trail < t,   s >= t - capacity

    Written after scoring: token t reads what was complete before it, so never itself, and a future token never. With
    ``trail`` 1 an engram points along the breadcrumbs to its successor (induction); 0 recalls the engram itself. A slot
    of logit 0 without content lets a token that nothing resembles stay silent. beta and theta are learned, as are S
    (through the grades of the chosen bits), V and U. The gate, per channel, is 0 at the start.

    Streaming: engrams are read from ``context.state[label]`` and left in ``context.next_state[label]``, at most
    ``capacity + trail`` of them, ``2 active`` bytes of code each beside grades and value; a stream without state starts
    with an empty memory. No gradient passes between chunks. Padding is never recalled.
    Cost: active T per token. Parameters: size D + 2 D^2 + D + 2.
    Sources: Ramsauer et al. 2021 (2008.02217); Ahmad & Hawkins 2016; Khandelwal et al. 2020 (kNN-LM, its relative).
    """

    def __init__(
        self,
        *,
        width: int,
        size: int = 2048,
        active: int = 40,
        trail: int = 1,
        capacity: int = 1024,
        label: str = "engrams",
    ) -> None:
        super().__init__()
        if not 1 <= active < size <= 2**15:
            raise UsageError(f"a code has fewer active bits than size, at most 32768, not {active} of {size}")
        if trail < 0 or capacity < 1:
            raise UsageError(f"engrams need trail >= 0 and capacity >= 1, not {trail} and {capacity}. Try: trail=1")
        self.width, self.size, self.active, self.trail, self.capacity = width, size, active, trail, capacity
        self.label = label
        self.code = nn.Linear(width, size, bias=False)
        nn.init.normal_(self.code.weight, std=width**-0.5)
        self.value = nn.Linear(width, width, bias=False)
        self.merge = nn.Linear(width, width, bias=False)
        self.beta = nn.Parameter(torch.tensor(16.0))
        self.theta = nn.Parameter(torch.tensor(0.5))
        self.gate = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        index, grade = self.encode(x)
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if context.mask is None else context.mask
        now = Engrams(index, grade, self.value(x).to(grade.dtype), mask)
        before: Engrams | None = context.state.get(self.label)
        if before is not None:
            now = Engrams(*(torch.cat(parts, 1) for parts in zip(before, now, strict=True)))
        if context.keep_state:
            kept = slice(-(self.capacity + self.trail), None)
            context.next_state[self.label] = Engrams(*(part[:, kept].detach() for part in now))
        read = recomputed(self._read, index, grade, *now)
        return zero_masked(self.gate * self.merge(read.to(x.dtype)), context.mask)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Active bits and their grades in (0, 1), (B, T, active) each, ascending."""
        scores = self.code(F.rms_norm(x, x.shape[-1:], eps=1e-5))
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        bits = threshold(scores.detach(), self.active)
        return bits, torch.sigmoid(chosen(scores, bits))

    def _read(self, index: Tensor, grade: Tensor, *stored: Tensor) -> Tensor:
        past = Engrams(*stored)
        count, start = past.bits.shape[1] - self.trail, past.bits.shape[1] - index.shape[1]
        if count < 1:
            return past.value.new_zeros(*index.shape[:2], self.width)
        keys, parts = (past.bits[:, :count], past.grade[:, :count]), []
        values = past.value[:, self.trail :]
        real = past.mask[:, :count] & past.mask[:, self.trail :]
        s = torch.arange(count, device=index.device)
        for first in range(0, index.shape[1], QUERIES):
            chunk = slice(first, first + QUERIES)
            shared = graded_overlap((index[:, chunk], grade[:, chunk]), keys, self.size)
            t = start + first + torch.arange(shared.shape[1], device=index.device)[:, None]
            may = (s + self.trail < t) & (s >= t - self.capacity) & real[:, None]
            parts.append(hopfield_read(self.beta * (shared / self.active - self.theta), values, may))
        return torch.cat(parts, 1)


def hopfield_read(logits: Tensor, values: Tensor, may: Tensor) -> Tensor:
    """Softmax over what may be read and a silent slot of logit 0: (B, T, S), (B, S, D), bool (B, T, S) -> (B, T, D)."""
    logits = F.pad(logits.masked_fill(~may, -math.inf), (0, 1))
    return logits.softmax(-1)[..., :-1] @ values
