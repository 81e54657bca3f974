"""Knot attention against torch's attention (all keys, gate closed) and a loop over pairs (gate open)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurons.errors import UsageError
from neurons.manifold.knot import gauss_integral
from neurons.manifold.knot_attention import THICKNESS, KnotAttention
from neurons.specs import Context


def build(gate: float = 5.0, **options: object) -> KnotAttention:
    torch.manual_seed(0)
    attention = KnotAttention(**({"width": 16, "causal": True, "heads": 2} | options))  # type: ignore[arg-type]
    nn.init.constant_(attention.topology.gate, gate)
    return attention


def hidden(steps: int = 14) -> Tensor:
    return torch.randn(2, steps, 16, generator=torch.Generator().manual_seed(1))


def test_a_closed_gate_and_all_keys_are_plain_attention() -> None:
    attention, x = build(0.0, candidates=14), hidden()
    q, k, v = attention.projections.split(x)
    wanted = attention.projections.join(F.scaled_dot_product_attention(q, k, v, is_causal=True))
    torch.testing.assert_close(attention(x, Context()), wanted, rtol=0, atol=1e-6)


def test_every_pair_by_hand() -> None:
    attention, x = build(candidates=5), hidden()
    q, k, v = (part.detach() for part in attention.projections.split(x))
    points, mixed = attention.topology.curve(x), torch.zeros_like(v)
    for b in range(2):
        for t in range(14):
            scores = (q[b, :, t, None] * k[b, :, : t + 1]).sum((0, 2)) / (2 * math.sqrt(8))
            scores[t] = math.inf
            ranked = scores.argsort(descending=True).tolist()
            chosen, left_out = ranked[:5], scores[ranked[5]] if t >= 5 else -math.inf
            for h in range(2):
                logits = []
                for j in chosen:
                    arcs = [points[b, [max(0, end - 3 + i) for i in range(4)]] for end in (t, j)]
                    linked = gauss_integral(*arcs, thickness=THICKNESS).abs()
                    gate, threshold = attention.topology.gate[h], attention.topology.threshold[h]
                    fade = math.log(1 - math.exp(float(left_out) - float(scores[j])))
                    product = q[b, h, t] @ k[b, h, j] / math.sqrt(8)
                    logits.append(product + F.logsigmoid(gate * (linked - threshold)) + fade)
                mixed[b, h, t] = torch.stack(logits).softmax(0) @ v[b, h, chosen]
    torch.testing.assert_close(attention(x, Context()), attention.projections.join(mixed), rtol=0, atol=1e-6)


def test_a_key_enters_and_leaves_without_a_jump() -> None:
    attention = build(candidates=3, causal=False)
    jumps = []
    for size in (1e-2, 1e-3, 1e-4):
        x = hidden()
        path = [x + i * size * hidden().flip(1) for i in range(40)]
        outs = torch.stack([attention(y, Context()) for y in path])
        jumps.append(outs.diff(dim=0).abs().max().item())
    assert jumps[2] < jumps[1] / 5 < jumps[0] / 20


def test_linked_tokens_are_heard_better() -> None:
    attention = build(20.0, candidates=14)
    q = k = torch.zeros(1, 2, 14, 8)
    index, added = attention.topology.select(q, k, None)
    points = torch.randn(1, 14, 3, generator=torch.Generator().manual_seed(3))
    logits = attention.topology(q, k, points, index, added)[0, 0, -1]
    arcs = attention.topology.arcs(points)[0]
    linked = gauss_integral(arcs[-1:].expand(14, -1, -1), arcs, thickness=THICKNESS).abs()[index[0, -1]]
    assert linked.max() > 0.05
    assert torch.equal(logits.argsort(), linked.argsort())


def test_every_parameter_learns_and_the_gate_is_felt() -> None:
    attention, x = build(0.1), hidden()
    out = attention(x, Context())
    assert (out - build(0.0)(x, Context())).abs().max() > 1e-5
    out.square().sum().backward()
    assert [name for name, p in attention.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_backward_keeps_no_gathered_keys() -> None:
    attention, kept = build(candidates=32), []
    x = torch.randn(1, 128, 16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        attention(x, Context())
    assert max(kept) <= 128 * 48  # gathered keys would be 128 * 32 * 16


@pytest.mark.parametrize("position", ["none", "rope"])
def test_chunks_give_the_whole(position: str) -> None:
    attention, x, state, parts = build(position=position), hidden(), {}, []
    for piece in x.split([1, 1, 5, 7], 1):
        context = Context(state=state)
        parts.append(attention(piece, context))
        state = context.next_state
    torch.testing.assert_close(torch.cat(parts, 1), attention(x, Context()), rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", [{"candidates": 0}, {"window": 1}])
def test_too_few_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="needs candidates >= 1 and window >= 2"):
        build(**options)
