"""Linear attention: the softmax replaced by a product of positive features, so that sums over the past suffice."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurons import ATTENTIONS
from neurons.errors import UsageError
from neurons.model import Attention
from neurons.specs import Context, zero_masked

CHUNK = 64
TINY = 1e-6  # added to the denominator, as in the authors' code


class Sums(NamedTuple):
    """What the past leaves: ``fields`` (B, H, d, e) = sum_j phi(k_j) v_j^T, ``total`` (B, H, d) = sum_j phi(k_j)."""

    fields: Tensor
    total: Tensor


def linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    past: Sums | None = None,
) -> tuple[Tensor, Sums]:
    """``out_i = phi(q_i) sum_j phi(k_j) v_j^T / (phi(q_i) . sum_j phi(k_j))``, phi = elu + 1, j <= i when causal.

    query, key (B, H, T, d), value (B, H, T, e), mask (B, T) bool, True = real; ``past``: the sums of tokens before the
    first one (causal only). Returns (B, H, T, e) and the sums after the last token. O(T d e): chunks of 64 tokens see
    each other through a masked product, and everything before them through the sums.
    """
    q, k = F.elu(query) + 1, F.elu(key) + 1
    if mask is not None:
        k = k.masked_fill(~mask[:, None, :, None], 0.0)
    if not causal:
        after = Sums(k.transpose(-1, -2) @ value, k.sum(2))
        return q @ after.fields / (q @ after.total.unsqueeze(-1) + TINY), after
    steps = q.shape[2]
    size = min(CHUNK, steps)
    q, k, v = (F.pad(t, (0, 0, 0, -steps % size)).unflatten(2, (-1, size)) for t in (q, k, value))
    scores = (q @ k.transpose(-1, -2)).tril()
    fields, total = _running(k.transpose(-1, -2) @ v, past and past.fields), _running(k.sum(3), past and past.total)
    above = scores @ v + q @ fields[:, :, :-1]
    below = scores.sum(-1, keepdim=True) + q @ total[:, :, :-1].unsqueeze(-1)
    out = (above / (below + TINY)).flatten(2, 3)[:, :, :steps]
    return out, Sums(fields[:, :, -1].clone(), total[:, :, -1].clone())  # views would keep those of every chunk


def _running(parts: Tensor, start: Tensor | None) -> Tensor:
    """(B, H, P, ...) -> (B, H, P + 1, ...): the sum of ``start`` and of the parts before each one, and of all."""
    first = torch.zeros_like(parts[:, :, :1]) if start is None else start.unsqueeze(2)
    return torch.cat([first, parts], 2).cumsum(2)


@ATTENTIONS.register("linear")
class LinearAttention(Attention):
    """Multi-head linear attention with elu + 1 features, O(T): (B, T, width) -> (B, T, width).

        out_i = phi(q_i) sum_j phi(k_j) v_j^T / (phi(q_i) . sum_j phi(k_j)),    phi(x) = elu(x) + 1

    Parameters: 4 width^2 + 4 width, as softmax attention has. When causal it streams: the sums after the last real
    token are read from ``context.state[label]`` and left in ``context.next_state[label]``.
    Source: Katharopoulos et al. 2020, "Transformers are RNNs".
    """

    def __init__(self, *, width: int, causal: bool, heads: int = 4, label: str = "linear") -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise UsageError(f"attention 'linear': width {width} is not a multiple of heads {heads}. Try: heads=1")
        self.width, self.is_causal, self.heads, self.label = width, causal, heads, label
        self.project = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        batch, steps, width = x.shape
        q, k, v = self.project(x).view(batch, steps, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        # Sums over the whole sequence are kept in the parameters' precision under autocast.
        with torch.autocast(x.device.type, enabled=False):
            mixed, after = linear_attention(
                *(t.to(self.merge.weight.dtype) for t in (q, k, v)),
                causal=self.is_causal,
                mask=context.mask,
                past=context.state.get(self.label) if self.is_causal else None,
            )
        if self.is_causal:
            context.next_state[self.label] = Sums(*(t.detach() for t in after))
        return zero_masked(self.merge(mixed.transpose(1, 2).flatten(2)), context.mask)

    def extra_repr(self) -> str:
        return f"{self.heads} heads of {self.width // self.heads}, features elu + 1"
