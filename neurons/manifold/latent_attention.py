"""Multi-head latent attention: keys and values of all heads from one small vector per token."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurons import ATTENTIONS
from neurons.errors import UsageError
from neurons.manifold.heads import allowed, check_heads, remember, sdpa, start_of
from neurons.manifold.positions import rotate
from neurons.model import Attention
from neurons.specs import Context, zero_masked


@ATTENTIONS.register("latent")
class LatentAttention(Attention):
    """``c = W h`` is all that is kept of a token; head i reads the keys ``K_i c`` and the values ``V_i c`` out of it.

    Rotary positions do not commute with K_i, so they have channels of their own: a key of ``rotary`` channels that the
    heads share, and as many more channels of every query. The logits add both products, over sqrt(d + rotary).

    A causal layer goes on from chunk to chunk by ``latent + rotary`` numbers per token instead of 2 D, and then works
    on the latents themselves: K_i is absorbed into the query and V_i into the output, ``q.K_i c = (K_i^T q).c``, so no
    key or value of the past is ever made again.

    latent: size of c, None = width / 2; at width (and rotary 0) the layer can be any multi-head attention.
    rotary: even, 0 = no positions.     label: of the cache.
    Parameters: D (D + H rotary) + D (latent + rotary) + 2 latent D + D^2 and biases 2 D + H rotary.
    Source: DeepSeek-AI 2024 (DeepSeek-V2, 2405.04434).
    """

    def __init__(
        self,
        *,
        width: int,
        causal: bool,
        heads: int = 4,
        latent: int | None = None,
        rotary: int = 8,
        label: str = "latent",
    ) -> None:
        super().__init__()
        check_heads("latent", width, heads)
        count = max(1, width // 2) if latent is None else latent
        if not 1 <= count <= width or rotary < 0 or rotary % 2:
            raise UsageError(
                f"attention 'latent' needs latent from 1 to width {width} and an even rotary >= 0, not {count} and "
                f"{rotary}. Try: rotary=8"
            )
        self.width, self.is_causal, self.heads, self.latent, self.rotary = width, causal, heads, latent, rotary
        self.label, self.count, self.size = label, count, width // heads
        self.query = nn.Linear(width, width + heads * rotary)
        self.compress = nn.Linear(width, count + rotary, bias=False)
        self.key = nn.Linear(count, width, bias=False)
        self.value = nn.Linear(count, width, bias=False)
        self.merge = nn.Linear(width, width)

    def cache_bytes_per_token(self, dtype: torch.dtype = torch.float32) -> int:
        """What a token leaves in the cache; plain attention leaves 2 width numbers."""
        return (self.count + self.rotary) * dtype.itemsize

    def forward(self, x: Tensor, context: Context) -> Tensor:
        start = start_of(context, self.label)
        q, turning = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2).split([self.size, self.rotary], -1)
        c, place = self.compress(x)[:, None].split([self.count, self.rotary], -1)
        turning, place = rotate(turning, start), rotate(place, start)
        mask = context.mask
        if self.is_causal:
            place, c, mask = remember(context, self.label, place, c)
        attend = self._absorbed if start else self._expanded
        added = allowed(mask, q.shape[2], c.shape[2], self.is_causal, x.device)
        mixed = attend(q, turning, c, place, added)
        return zero_masked(self.merge(mixed.transpose(1, 2).flatten(2)), context.mask)

    def _expanded(self, q: Tensor, turning: Tensor, c: Tensor, place: Tensor, added: Tensor | None) -> Tensor:
        k, v = (part(c[:, 0]).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.key, self.value))
        keys = torch.cat([k, place.expand(-1, self.heads, -1, -1)], -1)
        return self._attend(torch.cat([q, turning], -1), keys, v, added)

    def _absorbed(self, q: Tensor, turning: Tensor, c: Tensor, place: Tensor, added: Tensor | None) -> Tensor:
        inward, outward = (part.weight.unflatten(0, (self.heads, -1)) for part in (self.key, self.value))
        queries = torch.cat([q @ inward.to(q.dtype), turning], -1)
        keys = torch.cat([c, place], -1).expand(-1, self.heads, -1, -1)
        mixed = self._attend(queries, keys, c.expand(-1, self.heads, -1, -1), added)
        return mixed @ outward.to(mixed.dtype).mT

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, added: Tensor | None) -> Tensor:
        size = v.shape[-1]
        padded = F.pad(v, (0, q.shape[-1] - size))  # the fused kernel wants one size for all three
        causal = self.is_causal and added is None
        return sdpa(q, k, padded, added, causal, 1 / math.sqrt(self.size + self.rotary))[..., :size]
