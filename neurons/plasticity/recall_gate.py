"""Recall-gated consolidation: a slow memory keeps only those updates that a fast memory recalls (Lindsey and
Litwin-Kumar 2024, eLife).

    strength = <update, short> / (|update| |short|)
    long += rate [strength > threshold] update,    short = keep short + update

What comes again while the fast memory still holds it is worth keeping; what comes once is noise to the slow one, and
is not written over what it holds. Works on the weights of any model, one state per parameter.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Memories(NamedTuple):
    """``short`` and ``long``, each of the parameter's shape."""

    short: Tensor
    long: Tensor


def recall_strength(update: Tensor, memory: Tensor, *, batched: bool = False) -> Tensor:
    """Cosine of ``update`` and ``memory`` over all axes (``batched``: over all but the first) in [-1, 1], 0 where one
    of them is zero; () or (B,)."""
    a, b = (x.flatten(1) if batched else x.reshape(1, -1) for x in (update, memory))
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=1, eps=torch.finfo(a.dtype).tiny)
    return cosine if batched else cosine[0]


def open_gate(strength: Tensor, threshold: float) -> Tensor:
    """1 where the recall exceeds ``threshold``, else 0, in the dtype of ``strength``."""
    return (strength > threshold).to(strength.dtype)


def step(memories: Memories, update: Tensor, *, keep: float, threshold: float, rate: float = 1.0) -> Memories:
    """One update of one parameter: ``keep`` of the fast memory stays, ``rate`` scales the slow write."""
    gate = open_gate(recall_strength(update, memories.short), threshold)
    return Memories(keep * memories.short + update, memories.long + rate * gate * update)
