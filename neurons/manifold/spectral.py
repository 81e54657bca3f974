"""Spectral parts: eigenvectors of the vocabulary's co-occurrence graph, and causal random-walk filters."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn

from neurons import ATTENTIONS
from neurons.errors import UsageError
from neurons.manifold.heads import Heads, sdpa
from neurons.model import Attention
from neurons.specs import Context, zero_masked


def cooccurrence(tokens: Tensor, *, size: int, window: int = 4) -> sparse.csr_array:
    """Symmetric (size, size) counts of two symbols within ``window`` places of a training text, tokens (N,) int64."""
    text, total = np.asarray(tokens), sparse.csr_array((size, size), dtype=np.float64)
    for shift in range(1, window + 1):
        left, right = text[:-shift], text[shift:]
        total = total + sparse.coo_array((np.ones(len(left)), (left, right)), shape=(size, size)).tocsr()
    return total + total.T


def laplacian(counts: sparse.csr_array) -> sparse.csr_array:
    """Normalised Laplacian ``1 - D^(-1/2) A D^(-1/2)``; symbols without a neighbour are components of their own."""
    degree = np.asarray(counts.sum(1)).ravel()
    inverse = np.where(degree > 0, 1 / np.sqrt(np.maximum(degree, 1e-300)), 0.0)
    scale = sparse.diags_array(inverse)
    return (sparse.diags_array((degree > 0).astype(float)) - scale @ counts @ scale).tocsr()


def spectral_coordinates(counts: sparse.csr_array, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` lowest eigenvalues (count,) of the Laplacian and their eigenvectors (V, count), float64.

    Lanczos on ``2 - L``, whose largest eigenvalues they are, with a fixed start; each vector's largest entry is
    positive, so that a text gives one answer. Static, of the training text alone: nothing about a sequence leaks.
    """
    size = counts.shape[0]
    if not 1 <= count < size:
        raise UsageError(f"a graph of {size} symbols has up to {size - 1} eigenvectors here, not {count}")
    flipped = sparse.diags_array(np.full(size, 2.0)) - laplacian(counts)
    values, vectors = eigsh(flipped, k=count, which="LA", v0=np.linspace(1.0, 2.0, size), tol=1e-12)
    order = np.argsort(-values)
    vectors = vectors[:, order]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(count)])
    return torch.from_numpy(2 - values[order]), torch.from_numpy(vectors)


class SpectralEmbedding(nn.Module):
    """Tokens by their place on the co-occurrence graph: ids (B, T) -> an update (B, T, width), gated, 0 at the start.

    ``vectors`` (V, n) from :func:`spectral_coordinates`, scaled to unit root mean square per column, are constants; a
    linear map of them is learned. Parameters: n width + width. Source: Belkin & Niyogi 2003 (Laplacian eigenmaps).
    """

    table: Tensor

    def __init__(self, vectors: Tensor, *, width: int) -> None:
        super().__init__()
        self.register_buffer("table", (vectors * vectors.square().mean(0).rsqrt()).float())
        self.map = nn.Linear(vectors.shape[1], width, bias=False)
        self.gate = nn.Parameter(torch.zeros(width))

    def forward(self, tokens: Tensor, context: Context) -> Tensor:
        return zero_masked(self.gate * self.map(self.table[tokens]), context.mask)


@ATTENTIONS.register("random_walk")
class RandomWalkAttention(Attention):
    """A polynomial filter on the attention graph: ``y = P v + sum_{k=2..order} gate_k P^k v``.

    P is the row-stochastic matrix of softmax attention, a random walk from each token to those it attends to; causal
    P walks back only, so no power of it sees the future. On its eigenvectors the filter acts as the polynomial does on
    the eigenvalues: what a graph Fourier transform over the sequence would do, without one (whose basis leaks). The
    gates, per head and power, are 0 at the start: plain attention.

    order: the longest walk; each further power is one more fused product.     position: ``rope``, ``alibi``, ``none``.
    Parameters: 4 D^2 + 4 D + H (order - 1). Source: Defferrard et al. 2016; Abu-El-Haija et al. 2019 (MixHop).
    """

    def __init__(
        self,
        *,
        width: int,
        causal: bool,
        heads: int = 4,
        order: int = 3,
        position: Literal["none", "rope", "alibi"] = "none",
    ) -> None:
        super().__init__()
        if order < 2:
            raise UsageError(f"a random-walk filter has order 2 or more, not {order}. Try: order=3")
        self.width, self.is_causal, self.heads, self.order, self.position = width, causal, heads, order, position
        self.projections = Heads("random_walk", width=width, heads=heads, causal=causal, position=position)
        self.gate = nn.Parameter(torch.zeros(order - 1, heads))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        self.whole_sequence(context)
        q, k, walked = self.projections.split(x)
        added = self.projections.weights(q, k, context.mask)
        total = walked = sdpa(q, k, walked, added, self.is_causal and added is None)
        for gate in self.gate:
            walked = sdpa(q, k, walked, added, self.is_causal and added is None)
            total = total + gate[:, None, None].to(walked.dtype) * walked
        return zero_masked(self.projections.join(total), context.mask)
