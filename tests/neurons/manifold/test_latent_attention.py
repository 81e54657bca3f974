"""Latent attention against torch's multi-head attention, absorbed against expanded, and the bytes of its cache."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from neurons.errors import UsageError
from neurons.manifold.latent_attention import LatentAttention
from neurons.manifold.positions import rotate
from neurons.specs import Context


def build(**options: object) -> LatentAttention:
    torch.manual_seed(0)
    return LatentAttention(**({"width": 16, "causal": True, "heads": 2} | options))  # type: ignore[arg-type]


def hidden(steps: int = 12) -> Tensor:
    return torch.randn(2, steps, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("causal", [False, True])
def test_a_latent_of_full_rank_is_multi_head_attention(causal: bool) -> None:
    latent, x = build(latent=16, rotary=0, causal=causal), hidden()
    plain = nn.MultiheadAttention(16, 2, batch_first=True)
    with torch.no_grad():
        plain.in_proj_weight.copy_(
            torch.cat([latent.query.weight, *(p.weight @ latent.compress.weight for p in (latent.key, latent.value))])
        )
        plain.in_proj_bias.copy_(torch.cat([latent.query.bias, torch.zeros(32)]))
        plain.out_proj.load_state_dict(latent.merge.state_dict())
    future = torch.ones(12, 12).triu(1).bool() if causal else None
    torch.testing.assert_close(latent(x, Context()), plain(x, x, x, attn_mask=future)[0], rtol=0, atol=1e-6)


def test_the_decoupled_key_by_hand() -> None:
    attention, x = build(rotary=4), hidden()
    c, place = attention.compress(x).split([8, 4], -1)
    heads = attention.query(x).unflatten(-1, (2, 12))
    mixed = []
    for h in range(2):
        q, turning = heads[:, :, h].split([8, 4], -1)
        k, v = (part.weight[8 * h : 8 * h + 8] for part in (attention.key, attention.value))
        logits = q @ (c @ k.T).mT + rotate(turning) @ rotate(place).mT
        logits = (logits / math.sqrt(12)).masked_fill(torch.ones(12, 12).triu(1).bool(), -math.inf)
        mixed.append(logits.softmax(-1) @ (c @ v.T))
    torch.testing.assert_close(attention(x, Context()), attention.merge(torch.cat(mixed, -1)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("padded", [False, True])
def test_absorbed_chunks_give_the_expanded_whole(padded: bool) -> None:
    attention, x, state, parts = build(latent=5), hidden(), {}, []
    mask = torch.arange(12) < torch.tensor([[12], [7]]) if padded else None
    start = 0
    for count in (1, 4, 1, 6):
        chunk = slice(start, start + count)
        context = Context(state=state, mask=None if mask is None else mask[:, chunk])
        parts.append(attention(x[:, chunk], context))
        state, start = context.next_state, start + count
    torch.testing.assert_close(torch.cat(parts, 1), attention(x, Context(mask=mask)), rtol=0, atol=1e-6)


def test_the_cache_is_as_small_as_declared() -> None:
    attention, context = build(latent=4, rotary=2), Context()
    attention(hidden(), context)
    past = context.next_state["latent"]
    stored = sum(part.numel() * part.element_size() for part in (past.key, past.value)) // (2 * 12)
    assert stored == attention.cache_bytes_per_token() == 24
    assert attention.cache_bytes_per_token(torch.bfloat16) == 12  # plain attention: 64
    assert past.key.untyped_storage().nbytes() + past.value.untyped_storage().nbytes() <= 2 * 2 * 12 * 24


def test_every_parameter_learns() -> None:
    attention = build()
    attention(hidden(), Context()).square().sum().backward()
    assert [name for name, p in attention.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("options", [{"latent": 17}, {"latent": 0}, {"rotary": 3}])
def test_impossible_sizes_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="latent from 1 to width 16 and an even rotary"):
        build(**options)
