"""Multi-head softmax attention on torch's fused kernel."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from neurons import ATTENTIONS, POSITIONS
from neurons.manifold.heads import added_to_logits, check_heads, remember, start_of
from neurons.model import Attention
from neurons.specs import Context, zero_masked


@ATTENTIONS.register("softmax")
class SoftmaxAttention(Attention):
    """Scaled dot-product attention, softmax(Q K^T / sqrt(d)) V per head: (B, T, width) -> (B, T, width).

    ``positions``: ``rotary`` turns queries and keys by their place, ``alibi`` adds slopes to the logits, ``none``
    leaves order to the embedding. ``dropout`` acts on the attention weights. Masked keys get no weight; with ``causal``
    step t reads steps <= t. ``label``: of the cache of keys and values, 2 width numbers per token, through which a
    causal layer goes on from chunk to chunk. Parameters: 4 width^2 + 4 width.
    Source: Vaswani et al. 2017; Su et al. 2021 (rope); Press, Smith & Lewis 2022 (ALiBi).
    """

    def __init__(
        self,
        *,
        width: int,
        causal: bool,
        heads: int = 4,
        dropout: float = 0.0,
        positions: Literal["none", "rotary", "alibi"] = "none",
        label: str = "softmax",
    ) -> None:
        super().__init__()
        check_heads("softmax", width, heads)
        self.width, self.is_causal = width, causal
        self.heads, self.dropout, self.positions, self.label = heads, dropout, positions, label
        self.place = POSITIONS.build("rope" if positions == "rotary" else positions, width=width, heads=heads, length=0)
        self.project = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        projected = self.place.turn(self.project(x), start_of(context, self.label) if self.is_causal else 0)
        q, k, v = projected.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        k, v, mask = remember(context, self.label, k, v) if self.is_causal else (k, v, context.mask)
        added = added_to_logits(self.place, q, k, mask, self.is_causal)
        mixed = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=added,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.is_causal and added is None,
        )
        return zero_masked(self.merge(mixed.transpose(1, 2).flatten(2)), context.mask)
