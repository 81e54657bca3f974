"""Softmax attention within a window: O(T window)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurons import ATTENTIONS
from neurons.errors import UsageError
from neurons.model import Attention
from neurons.specs import Context, zero_masked


@ATTENTIONS.register("local")
class LocalAttention(Attention):
    """Multi-head softmax attention to the tokens less than ``window`` away: (B, T, width) -> (B, T, width).

        out_i = softmax_j(q_i . k_j / sqrt(d)) v_j,    |i - j| < window, and j <= i when causal

    Blocks of ``window`` tokens read themselves and their neighbours (the one before when causal), so the cost is linear
    in T. Parameters: 4 width^2 + 4 width, as softmax attention has. Positions come from the embedding.
    Sources: Tay et al. 2021 (the local attention of Long Range Arena); Beltagy et al. 2020 (sliding windows).
    """

    def __init__(self, *, width: int, causal: bool, heads: int = 4, window: int = 64) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise UsageError(f"attention 'local': width {width} is not a multiple of heads {heads}. Try: heads=1")
        if window < 1:
            raise UsageError(f"attention 'local' needs a window of one token or more, not {window}. Try: window=64")
        self.width, self.is_causal, self.heads, self.window = width, causal, heads, window
        self.project = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        self.whole_sequence(context)
        batch, steps, width = x.shape
        size = min(self.window, steps)
        blocks = -(-steps // size)
        q, k, v = self.project(x).view(batch, steps, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q = F.pad(q, (0, 0, 0, blocks * size - steps)).unflatten(2, (blocks, size))
        k, v = (self._neighbours(F.pad(t, (0, 0, 0, blocks * size - steps)), size) for t in (k, v))
        near = self._near(context.mask, batch, steps, blocks, size, x.device)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=near)
        out = mixed.flatten(2, 3)[:, :, :steps].transpose(1, 2).reshape(batch, steps, width)
        return zero_masked(self.merge(out), context.mask)

    def _neighbours(self, t: Tensor, size: int) -> Tensor:
        """(B, H, blocks size, ...) -> (B, H, blocks, 2 or 3 size, ...): each block between those beside it."""
        after = 0 if self.is_causal else size
        padded = torch.cat([torch.zeros_like(t[:, :, :size]), t, torch.zeros_like(t[:, :, :after])], 2)
        parts = padded.unflatten(2, (-1, size))
        count = t.shape[2] // size
        return torch.cat([parts[:, :, i : i + count] for i in range(2 if self.is_causal else 3)], 3)

    def _near(
        self, mask: Tensor | None, batch: int, steps: int, blocks: int, size: int, device: torch.device
    ) -> Tensor:
        """(B or 1, 1, blocks, size, 2 or 3 size) bool: which keys of its neighbourhood a query reads. No row is empty:
        a softmax over nothing is NaN, so a token always reads itself."""
        place = torch.arange(size, device=device)[:, None] + size
        other = torch.arange((2 if self.is_causal else 3) * size, device=device)
        within = (place - other).abs() < size
        if self.is_causal:
            within = within & (other <= place)
        real = torch.ones(1, steps, dtype=torch.bool, device=device) if mask is None else mask
        real = F.pad(real, (0, blocks * size - steps))[:, None, :]
        return within & self._neighbours(real, size)[:, :, :, None] | (place == other)
