"""Several residual streams instead of one, and learned maps that mix them around every layer."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from neurons.errors import UsageError
from neurons.manifold.recompute import recomputed

ITERATIONS = 20  # of Sinkhorn at temperature 1; a low temperature underflows to a frozen identity
MOST = {"plain": 16, "sinkhorn": 16, "permutations": 5}  # streams; 5 have 120 permutations


def sinkhorn(logits: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Doubly stochastic matrices (..., S, S) from logits: rows and columns of exp(logits) are normalised in turn.

    What is left after the last turn (1e-4 at strong diagonals) is rounded away, nonnegative and exact: what exceeds 1
    is scaled down, what lacks is added as a product of the rows' and the columns' lacks (Altschuler et al. 2017).
    """
    matrix = torch.exp(logits - logits.detach().amax((-2, -1), keepdim=True))
    for _ in range(iterations):
        matrix = matrix / matrix.sum(-1, keepdim=True)
        matrix = matrix / matrix.sum(-2, keepdim=True)
    matrix = matrix / matrix.sum(-1, keepdim=True).clamp_min(1)
    rows, columns = 1 - matrix.sum(-1, keepdim=True), (1 - matrix.sum(-2, keepdim=True)).clamp_min(0)
    return matrix + rows * columns / columns.sum(-1, keepdim=True).clamp_min(1e-12)


def permutations(streams: int) -> Tensor:
    """All S! permutation matrices (S!, S, S), the identity first."""
    return torch.stack([torch.eye(streams)[list(order)] for order in itertools.permutations(range(streams))])


class HyperConnection(nn.Module):
    """A layer between S streams: H (B, T, S, D), ``layer`` a map of (B, T, D), result (B, T, S, D).

        h = sum_s pre_s H_s,   H'_s = sum_r mix_sr H_r + post_s layer(h)

    The coefficients are learned constants plus what each token says: ``constant + gate * (W^T vec H) / rms(vec H)``.
    ``plain`` takes them as they are (hyper-connections). ``sinkhorn`` (mHC) makes mix doubly stochastic, pre =
    sigmoid, post = 2 sigmoid: no stream can grow or die through depth. ``permutations`` (mHC-lite) does so exactly, as
    a convex combination of the S! permutations. While all streams are equal, as :func:`spread` makes them, any mix with
    unit row sums leaves them, pre sums to 1 and post is 1: with :func:`gather` at the end the model starts as a plain
    residual one. Pre favours stream ``index`` mod S, so that the streams part at the first step.

    Parameters: 2 S + (S^2 or S!) constants, S D times as many in W, and a gate per kind of coefficient, 0 at the start.
    Sources: Zhu et al. 2024 (2409.19606); Xie et al. 2025 (2512.24880); mHC-lite 2026 (2601.05732).
    """

    matrices: Tensor

    def __init__(
        self,
        *,
        width: int,
        streams: int = 2,
        index: int = 0,
        variant: Literal["plain", "sinkhorn", "permutations"] = "sinkhorn",
    ) -> None:
        super().__init__()
        if variant not in MOST:
            raise UsageError(f"unknown variant '{variant}' of hyper-connections. Try: {', '.join(MOST)}")
        if not 2 <= streams <= MOST[variant]:
            raise UsageError(f"'{variant}' connects 2 to {MOST[variant]} streams, not {streams}. Try: streams=2")
        self.width, self.streams, self.index, self.variant = width, streams, index, variant
        pre = torch.full((streams,), 0.2 / (streams - 1))
        pre[index % streams] = 0.8
        if variant == "permutations":
            self.register_buffer("matrices", permutations(streams), persistent=False)
            mix = torch.zeros(len(self.matrices))
            mix[0] = 2.0
        else:
            mix = (1.0 if variant == "plain" else 2.0) * torch.eye(streams).flatten()
        self.pre = nn.Parameter(pre if variant == "plain" else torch.logit(pre))
        self.post = nn.Parameter(torch.ones(streams) if variant == "plain" else torch.zeros(streams))
        self.mix = nn.Parameter(mix)
        self.dynamic = nn.Linear(streams * width, 2 * streams + len(mix), bias=False)
        nn.init.normal_(self.dynamic.weight, std=(streams * width) ** -0.5)
        self.gate = nn.Parameter(torch.zeros(3))

    def forward(self, streams: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
        pre, post, mix = self.coefficients(streams)
        # Stream by stream: batched products of 2 x 2 matrices would cost three times as much.
        heard = torch.zeros((), dtype=streams.dtype, device=streams.device)
        mixed = heard
        for s in range(self.streams):
            heard = torch.addcmul(heard, pre[..., s, None], streams[..., s, :])
            mixed = torch.addcmul(mixed, mix[..., s, None], streams[..., s, None, :])
        return torch.addcmul(mixed, post[..., None], layer(heard)[..., None, :])

    def coefficients(self, streams: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """pre (B, T, S), post (B, T, S) and mix (B, T, S, S)."""
        flat = streams.flatten(2)
        # Normalised after the product: nothing of the size of the streams is kept for it.
        size = torch.linalg.vector_norm(
            flat, dim=-1, keepdim=True, dtype=torch.float32 if flat.dtype.itemsize == 2 else None
        )
        said = self.dynamic(flat) * torch.rsqrt(size.square() / flat.shape[-1] + 1e-6)
        parts = said.split([self.streams, self.streams, len(self.mix)], -1)
        constants = (self.pre, self.post, self.mix)
        found = [
            constant + gate * part.to(constant.dtype)
            for constant, gate, part in zip(constants, self.gate, parts, strict=True)
        ]
        pre, post, mix = recomputed(self._constrained, *found)
        return pre.to(streams.dtype), post.to(streams.dtype), mix.to(streams.dtype)

    def _constrained(self, pre: Tensor, post: Tensor, mix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.variant == "permutations":
            mix = torch.einsum("btp,psr->btsr", mix.softmax(-1), self.matrices)
            return torch.sigmoid(pre), 2 * torch.sigmoid(post), mix
        mix = mix.unflatten(-1, (self.streams, self.streams))
        if self.variant == "plain":
            return pre, post, mix
        return torch.sigmoid(pre), 2 * torch.sigmoid(post), sinkhorn(mix)


def spread(x: Tensor, streams: int) -> Tensor:
    """(B, T, D) -> S equal streams (B, T, S, D)."""
    return x[..., None, :].expand(*x.shape[:-1], streams, -1)


def gather(streams: Tensor) -> Tensor:
    """(B, T, S, D) -> their mean (B, T, D)."""
    return streams.mean(-2)


class StreamSum(nn.Module):
    """The streams' learned weighted sum, (B, T, S, D) -> (B, T, D): where a model goes back to one stream.

    The weights sum to 1 and are unequal at the start: equal streams are left as they are, and the last connection has a
    gradient (a doubly stochastic mix never changes the plain mean). Parameters: S.
    """

    def __init__(self, streams: int) -> None:
        super().__init__()
        weight = torch.full((streams,), 0.2 / (streams - 1))
        weight[0] = 0.8
        self.weight = nn.Parameter(weight)

    def forward(self, streams: Tensor) -> Tensor:
        return (self.weight.to(streams.dtype)[:, None] * streams).sum(-2)
