"""The metric's axioms; metric attention against a softmax of distances and torch's attention."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.distance import mahalanobis
from torch import Tensor, nn
from torch.nn import functional as F

from neurons.errors import UsageError
from neurons.manifold.metric import LowRankMetric, ManifoldChain, MetricAttention
from neurons.specs import Context


def build(gate: float = 0.1, **options: object) -> MetricAttention:
    torch.manual_seed(0)
    attention = MetricAttention(**({"width": 16, "causal": True, "heads": 2} | options))  # type: ignore[arg-type]
    nn.init.constant_(attention.gate, gate)
    return attention


def hidden(steps: int = 10) -> Tensor:
    return torch.randn(2, steps, 16, generator=torch.Generator().manual_seed(1))


def test_it_is_a_metric() -> None:
    torch.manual_seed(0)
    metric = LowRankMetric(8, rank=3).double()
    nn.init.normal_(metric.factor, std=5.0)
    assert torch.linalg.eigvalsh(metric.matrix()).min() >= 1 - 1e-9
    a, b, c = torch.randn(3, 20, 8, dtype=torch.float64)
    torch.testing.assert_close(metric.distance(a, b), metric.distance(b, a))
    assert (metric.distance(a, c) <= metric.distance(a, b) + metric.distance(b, c) + 1e-12).all()
    matrix = metric.matrix().detach().numpy()
    for row in range(20):
        assert abs(mahalanobis(a[row], b[row], matrix) - float(metric.distance(a, b)[row].detach())) < 1e-9


def test_an_open_gate_is_the_softmax_of_distances() -> None:
    attention, x = build(1.0), hidden()
    q, k, v = attention.projections.split(x)
    squared = attention.metric.distance(q[..., :, None, :], k[..., None, :, :]).square()
    logits = (-squared / 2 / math.sqrt(8)).masked_fill(torch.ones(10, 10).triu(1).bool(), -math.inf)
    wanted = attention.projections.join(logits.softmax(-1) @ v)
    torch.testing.assert_close(attention(x, Context()), wanted, rtol=1e-5, atol=1e-6)


def test_a_closed_gate_is_plain_attention() -> None:
    attention, x = build(0.0), hidden()
    q, k, v = attention.projections.split(x)
    wanted = attention.projections.join(F.scaled_dot_product_attention(q, k, v, is_causal=True))
    torch.testing.assert_close(attention(x, Context()), wanted, rtol=0, atol=1e-6)


def test_every_parameter_learns_and_the_metric_is_felt() -> None:
    attention, x = build(), hidden()
    out = attention(x, Context())
    out.square().sum().backward()
    assert [name for name, p in attention.named_parameters() if p.grad is None or not p.grad.any()] == []
    nn.init.zeros_(attention.metric.factor)
    assert (attention(x, Context()) - out).abs().max() > 1e-5


def test_token_by_token_equals_the_whole() -> None:
    attention, x, state, parts = build(0.7, position="rope"), hidden(), {}, []
    for t in range(10):
        context = Context(state=state)
        parts.append(attention(x[:, t : t + 1], context))
        state = context.next_state
    torch.testing.assert_close(torch.cat(parts, 1), attention(x, Context()), rtol=0, atol=1e-6)


def test_the_chain_has_the_sizes_and_starts_silent() -> None:
    torch.manual_seed(0)
    chain, x = ManifoldChain(width=16), hidden()
    assert not chain(x, Context()).any()
    assert chain.coordinates(x).shape == (2, 10, 45)
    assert [m.out_features for m in chain.down if isinstance(m, nn.Linear)] == [133, 78, 45]
    nn.init.constant_(chain.gate, 0.1)
    chain(x, Context()).square().sum().backward()
    assert [name for name, p in chain.named_parameters() if p.grad is None or not p.grad.any()] == []
    mask = torch.arange(10) < torch.tensor([[10], [4]])
    assert not chain(x, Context(mask=mask))[~mask].any()


def test_rank_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="rank is 1 or more"):
        build(rank=0)
