"""What the attentions of this package share: projections, positions, masks and a key-value cache around SDPA."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurons import POSITIONS
from neurons.errors import UsageError
from neurons.manifold.positions import Position
from neurons.specs import Context


class Past(NamedTuple):
    """A causal layer's cache: key and value (B, H, S, d), mask (B, S) bool or None where nothing was padding."""

    key: Tensor
    value: Tensor
    mask: Tensor | None


class Heads(nn.Module):
    """Queries, keys and values of ``heads`` heads, (B, T, D) -> 3 of (B, H, T, D / H), and the way back.

    ``position`` is one that acts in the attention (none, rope, alibi). Parameters: 4 D^2 + 4 D.
    """

    def __init__(self, owner: str, *, width: int, heads: int, causal: bool, position: str) -> None:
        super().__init__()
        check_heads(owner, width, heads)
        if not getattr(POSITIONS.get(position), "in_attention", False):
            raise UsageError(f"position '{position}' acts at the embedding, not in attention '{owner}'. Try: rope")
        self.heads, self.causal = heads, causal
        self.position = POSITIONS.build(position, width=width, heads=heads, length=0)
        self.project = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)

    def split(self, x: Tensor, start: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        projected = self.position.turn(self.project(x), start)
        q, k, v = projected.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor | None:
        """See :func:`added_to_logits`."""
        return added_to_logits(self.position, q, k, mask, self.causal)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None = None) -> Tensor:
        """Softmax attention (B, H, T, d); ``mask`` (B, S) is that of the keys."""
        added = self.weights(q, k, mask)
        return sdpa(q, k, v, added, self.causal and added is None, scale)

    def join(self, mixed: Tensor) -> Tensor:
        return self.merge(mixed.transpose(1, 2).flatten(2))


def added_to_logits(position: Position, q: Tensor, k: Tensor, mask: Tensor | None, causal: bool) -> Tensor | None:
    """What SDPA adds to or forbids among the logits; None where its own causal flag says it all."""
    bias = position.bias(q.shape[2], k.shape[2], causal, q)
    may = allowed(mask, q.shape[2], k.shape[2], causal, q.device)
    if bias is None:
        return may
    return bias if may is None or mask is None else bias.masked_fill(~may, -math.inf)


def sdpa(q: Tensor, k: Tensor, v: Tensor, added: Tensor | None, causal: bool, scale: float | None = None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=added, is_causal=causal, scale=scale)


def check_heads(owner: str, width: int, heads: int) -> None:
    if heads < 1 or width % heads:
        raise UsageError(f"attention '{owner}': width {width} is not a multiple of heads {heads}. Try: heads=1")


def allowed(mask: Tensor | None, queries: int, keys: int, causal: bool, device: torch.device) -> Tensor | None:
    """Bool, broadcasts to (B, 1, queries, keys), True where a query may read a key; None if SDPA's own flag does.

    The last query stands at the last key. No row is empty: a softmax over nothing is NaN, and so is its gradient.
    """
    if not causal:
        return None if mask is None else (mask | ~mask.any(1, keepdim=True))[:, None, None, :]
    if mask is None and queries == keys:
        return None
    past = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    if mask is None:
        return past
    own = past & ~past.tril(keys - queries - 1)
    return (past & mask[:, None, :] | own)[:, None]


def start_of(context: Context, label: str) -> int:
    """How many tokens the layer ``label`` has seen in earlier chunks."""
    past: Past | None = context.state.get(label)
    return 0 if past is None else past.key.shape[-2]


def remember(context: Context, label: str, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys, values and mask of all tokens so far; left in ``context.next_state``. No gradient passes between chunks."""
    past: Past | None = context.state.get(label)
    mask = context.mask
    if past is not None:
        if mask is not None or past.mask is not None:
            masks = [past.mask, mask]
            sizes = [past.key.shape[-2], k.shape[-2]]
            full = [
                torch.ones(k.shape[0], size, dtype=torch.bool, device=k.device) if part is None else part
                for part, size in zip(masks, sizes, strict=True)
            ]
            mask = torch.cat(full, 1)
        k, v = torch.cat([past.key, k], -2), torch.cat([past.value, v], -2)
    if context.keep_state:
        context.next_state[label] = Past(k.detach(), v.detach(), mask)
    return k, v, mask
