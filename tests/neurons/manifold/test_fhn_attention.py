"""FHN attention against torch's own attention and a float64 ODE solver; its gate, gradients and cache."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

from neurons.errors import UsageError
from neurons.manifold.fhn_attention import FHNAttention
from neurons.manifold.fitzhugh_nagumo import rest_state
from neurons.specs import Context


def build(gate: float = 0.1, **options: object) -> FHNAttention:
    torch.manual_seed(0)
    attention = FHNAttention(**({"width": 16, "causal": True} | options))  # type: ignore[arg-type]
    nn.init.constant_(attention.gate, gate)
    return attention


def hidden(steps: int = 12) -> torch.Tensor:
    return torch.randn(2, steps, 16, generator=torch.Generator().manual_seed(1))


def test_with_a_closed_gate_it_is_torchs_attention() -> None:
    attention, x = build(0.0), hidden()
    plain = nn.MultiheadAttention(16, 4, batch_first=True)
    plain.in_proj_weight.data, plain.in_proj_bias.data = (p.data for p in attention.projections.project.parameters())
    plain.out_proj.weight.data, plain.out_proj.bias.data = (p.data for p in attention.projections.merge.parameters())
    future = torch.ones(12, 12, dtype=torch.bool).triu(1)
    torch.testing.assert_close(attention(x, Context()), plain(x, x, x, attn_mask=future)[0], rtol=0, atol=1e-6)


def test_an_open_gate_is_felt_and_every_parameter_learns() -> None:
    attention, x = build(), hidden()
    out = attention(x, Context())
    assert (out - build(0.0)(x, Context())).abs().max() > 1e-4
    out.square().sum().backward()
    assert [name for name, p in attention.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_cells_respond_as_the_equation_says() -> None:
    attention = build(substeps=64)  # at the first dt, 64 steps are 16 units of time
    mixed = torch.randn(1, 1, 1, 4, generator=torch.Generator().manual_seed(2))
    drive = attention.stimulus(mixed / mixed.square().mean(-1, keepdim=True).add(1e-5).sqrt())
    wanted = []
    for stimulus in drive.flatten().tolist():
        flow = lambda _, y, s=stimulus: [y[0] - y[0] ** 3 / 3 - y[1] + s, (y[0] + 0.7 - 0.8 * y[1]) / 12.5]  # noqa: E731
        wanted.append(solve_ivp(flow, (0, 16), rest_state(), rtol=1e-9, atol=1e-9).y[0, -1] - rest_state()[0])
    response = (attention.excite(mixed) / mixed - 1) / 0.1
    assert np.abs(response.detach().numpy().ravel() - wanted).max() < 0.05


@pytest.mark.parametrize("position", ["none", "rope", "alibi"])
@pytest.mark.parametrize("padded", [False, True])
def test_token_by_token_equals_the_whole(position: str, padded: bool) -> None:
    attention, x, state, parts = build(position=position), hidden(), {}, []
    mask = torch.arange(12) < torch.tensor([[12], [7]]) if padded else None
    for t in range(12):
        context = Context(state=state, mask=None if mask is None else mask[:, t : t + 1])
        parts.append(attention(x[:, t : t + 1], context))
        state = context.next_state
    torch.testing.assert_close(torch.cat(parts, 1), attention(x, Context(mask=mask)), rtol=0, atol=1e-6)


def test_alibi_is_the_softmax_with_slopes() -> None:
    attention, x = build(0.0, position="alibi"), hidden()
    q, k, v = attention.projections.split(x)
    distance = torch.arange(12)[:, None] - torch.arange(12)
    slopes = torch.tensor([2.0 ** (-2 * h) for h in (1, 2, 3, 4)])[:, None, None]
    logits = q @ k.mT / math.sqrt(4) - slopes * distance
    wanted = logits.masked_fill(distance < 0, -math.inf).softmax(-1) @ v
    torch.testing.assert_close(attention.projections.attend(q, k, v, None), wanted, rtol=0, atol=1e-6)


def test_only_positions_that_act_in_attention_are_taken() -> None:
    with pytest.raises(UsageError, match="'learned' acts at the embedding"):
        build(position="learned")
