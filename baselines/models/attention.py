"""Multi-head softmax attention on torch's fused kernel."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurons import ATTENTIONS
from neurons.errors import UsageError
from neurons.model import Attention
from neurons.specs import Context, zero_masked


@ATTENTIONS.register("softmax")
class SoftmaxAttention(Attention):
    """Scaled dot-product attention, softmax(Q K^T / sqrt(d)) V per head: (B, T, width) -> (B, T, width).

    ``positions="rotary"`` turns queries and keys by their position; "none" leaves order to the embedding. ``dropout``
    acts on the attention weights. Parameters: 4 width^2 + 4 width. Masked keys get no weight; with ``causal`` step t
    reads steps <= t. Source: Vaswani et al. 2017; Su et al. 2021 (rotary).
    """

    def __init__(
        self,
        *,
        width: int,
        causal: bool,
        heads: int = 4,
        dropout: float = 0.0,
        positions: Literal["none", "rotary"] = "none",
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise UsageError(f"attention 'softmax': width {width} is not a multiple of heads {heads}")
        if positions == "rotary" and (width // heads) % 2:
            raise UsageError(f"attention 'softmax': rotary needs an even head size, not {width // heads}")
        self.width, self.is_causal = width, causal
        self.heads, self.dropout, self.positions = heads, dropout, positions
        self.project = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        self.whole_sequence(context)
        batch, steps, width = x.shape
        q, k, v = self.project(x).view(batch, steps, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if self.positions == "rotary":
            q, k = rotate(q), rotate(k)
        allowed = _allowed(context.mask, steps, self.is_causal)
        mixed = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=allowed,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.is_causal and allowed is None,
        )
        return zero_masked(self.merge(mixed.transpose(1, 2).reshape(batch, steps, width)), context.mask)


def _allowed(mask: Tensor | None, steps: int, causal: bool) -> Tensor | None:
    """(B, 1, 1 or T, T) bool, True where a query may read a key; None if there is no padding.

    No row is empty: a softmax over nothing is NaN, and so is its gradient even where the output is zeroed afterwards.
    """
    if mask is None:
        return None
    if not causal:
        return (mask | ~mask.any(1, keepdim=True))[:, None, None, :]
    past = torch.ones(steps, steps, dtype=torch.bool, device=mask.device).tril()
    own = torch.eye(steps, dtype=torch.bool, device=mask.device)
    return (past & mask[:, None, :] | own)[:, None]


def rotate(x: Tensor, base: float = 10000.0) -> Tensor:
    """x (B, H, T, d): the pair (x_i, x_{i + d/2}) at step t turned by the angle t * base^(-2i/d); in float32."""
    steps, half = x.shape[-2], x.shape[-1] // 2
    rate = base ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = torch.arange(steps, device=x.device, dtype=torch.float32)[:, None] * rate
    cosine, sine = angle.cos(), angle.sin()
    first, second = x.float().split(half, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1).to(x.dtype)
