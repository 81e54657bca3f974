"""Spectral parts against dense eigenvalues, known graphs and explicit powers of the attention matrix."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor, nn

from neurons.errors import UsageError
from neurons.manifold.spectral import (
    RandomWalkAttention,
    SpectralEmbedding,
    cooccurrence,
    laplacian,
    spectral_coordinates,
)
from neurons.specs import Context


def text(size: int = 40, length: int = 4000) -> Tensor:
    random = torch.Generator().manual_seed(0)
    topic = torch.arange(length) // 200 % 2  # two topics that hardly mix
    return torch.randint(0, size // 2, (length,), generator=random) + topic * (size // 2)


def test_counts_are_those_of_a_loop() -> None:
    tokens = torch.tensor([0, 1, 2, 0, 3])
    wanted = np.zeros((4, 4))
    for i in range(5):
        for j in range(5):
            if 0 < abs(i - j) <= 2:
                wanted[tokens[i], tokens[j]] += 1
    np.testing.assert_array_equal(cooccurrence(tokens, size=4, window=2).toarray(), wanted)


def test_residual_orthonormality_and_null_vector() -> None:
    counts = cooccurrence(text(), size=40)
    matrix, (values, vectors) = laplacian(counts).toarray(), spectral_coordinates(counts, 6)
    np.testing.assert_allclose(values.numpy(), np.linalg.eigvalsh(matrix)[:6], rtol=0, atol=1e-10)
    assert np.abs(matrix @ vectors.numpy() - vectors.numpy() * values.numpy()).max() < 1e-8
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-10)
    null = np.sqrt(counts.sum(1))
    np.testing.assert_allclose(vectors[:, 0].numpy(), null / np.linalg.norm(null), rtol=0, atol=1e-7)
    assert abs(float(values[0])) < 1e-10
    fiedler = vectors[:, 1]
    assert (torch.sign(fiedler[:20]) == -torch.sign(fiedler[20:])).all()  # it parts the two topics


def test_a_ring_has_its_closed_form() -> None:
    ring = sparse.csr_array(np.roll(np.eye(30), 1, 1) + np.roll(np.eye(30), -1, 1))
    values, _ = spectral_coordinates(ring, 5)
    wanted = sorted(1 - math.cos(2 * math.pi * k / 30) for k in range(30))[:5]
    np.testing.assert_allclose(values.numpy(), wanted, rtol=0, atol=1e-10)


def test_unused_symbols_do_not_disturb() -> None:
    counts = cooccurrence(text(), size=45)
    assert torch.isfinite(spectral_coordinates(counts, 4)[1]).all()
    with pytest.raises(UsageError, match="up to 44 eigenvectors"):
        spectral_coordinates(counts, 45)


def test_the_embedding_is_gated_and_learns() -> None:
    vectors = spectral_coordinates(cooccurrence(text(), size=40), 6)[1]
    embedding, tokens = SpectralEmbedding(vectors, width=8), text()[:20].view(2, 10)
    assert not embedding(tokens, Context()).any()
    nn.init.constant_(embedding.gate, 0.1)
    out = embedding(tokens, Context())
    wanted = 0.1 * (vectors * 40**0.5).float()[tokens] @ embedding.map.weight.T
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-6)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in embedding.parameters())


@pytest.mark.parametrize("causal", [False, True])
def test_the_filter_is_a_polynomial_of_the_walk(causal: bool) -> None:
    torch.manual_seed(0)
    walk = RandomWalkAttention(width=16, causal=causal, heads=2, order=4)
    nn.init.normal_(walk.gate)
    x = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(1))
    q, k, v = walk.projections.split(x)
    logits = q @ k.mT / math.sqrt(8)
    if causal:
        logits = logits.masked_fill(torch.ones(9, 9).triu(1).bool(), -math.inf)
    p = logits.softmax(-1)
    torch.testing.assert_close(p.sum(-1), torch.ones(2, 2, 9))
    total = p @ v
    for power in (2, 3, 4):
        total = total + walk.gate[power - 2][:, None, None] * torch.linalg.matrix_power(p, power) @ v
    torch.testing.assert_close(walk(x, Context()), walk.projections.join(total), rtol=1e-5, atol=1e-6)
    walk(x, Context()).square().sum().backward()
    assert [name for name, p in walk.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_order_one_is_refused() -> None:
    with pytest.raises(UsageError, match="order 2 or more"):
        RandomWalkAttention(width=16, causal=True, order=1)
