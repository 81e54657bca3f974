"""Hyper-connections: equal to a residual at the start, doubly stochastic maps, gradients that live, loops by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from neurons.errors import UsageError
from neurons.manifold.hyper_connections import HyperConnection, gather, permutations, sinkhorn, spread

VARIANTS = ["plain", "sinkhorn", "permutations"]
every = pytest.mark.parametrize("variant", VARIANTS)


def build(variant: str, streams: int = 3, index: int = 0, gate: float = 0.0) -> HyperConnection:
    torch.manual_seed(0)
    connection = HyperConnection(width=8, streams=streams, index=index, variant=variant)  # type: ignore[arg-type]
    nn.init.constant_(connection.gate, gate)
    return connection


def hidden(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@every
@pytest.mark.parametrize("streams", [2, 4])
@pytest.mark.parametrize("gate", [0.0, 0.1])
def test_it_starts_as_a_plain_residual(variant: str, streams: int, gate: float) -> None:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(4)]  # a norm would hide a wrong scale
    plain = x = hidden(2, 5, 8)
    many = spread(x, streams)
    for index, layer in enumerate(layers):
        plain = plain + layer(plain)
        many = build(variant, streams, index, gate)(many, layer)
    difference = (gather(many) - plain).abs().max()
    assert difference < 1e-5 if gate == 0 else difference > 1e-4


def test_sinkhorn_is_doubly_stochastic_and_not_frozen() -> None:
    logits = hidden(50, 4, 4).requires_grad_()
    matrix = sinkhorn(logits)
    for axis in (-1, -2):
        torch.testing.assert_close(matrix.sum(axis), torch.ones(50, 4), rtol=0, atol=1e-5)
    assert (matrix > 0).all()
    probe = hidden(50, 4, 4).flip(0)
    grad = torch.autograd.grad((matrix * probe).sum(), logits)[0]
    assert grad.abs().mean() > 1e-2
    # the limit is diag(r) exp(logits) diag(c): it has the logits' interactions
    found, wanted = (
        t - t.mean(-1, keepdim=True) - t.mean(-2, keepdim=True) + t.mean((-2, -1), keepdim=True)
        for t in (matrix.log(), logits)
    )
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3)


@pytest.mark.parametrize("variant", VARIANTS[1:])
def test_mixes_are_doubly_stochastic(variant: str) -> None:
    connection = build(variant, 4, gate=1.0)
    pre, post, mix = connection.coefficients(10 * hidden(3, 7, 4, 8))
    for axis in (-1, -2):
        torch.testing.assert_close(mix.sum(axis), torch.ones(3, 7, 4), rtol=0, atol=1e-5)
    assert (mix >= 0).all()
    assert ((pre > 0) & (pre < 1)).all()
    assert ((post > 0) & (post < 2)).all()
    deep = hidden(1, 1, 4, 8)
    with torch.no_grad():
        for _ in range(100):
            deep = connection(deep, torch.zeros_like)
    assert deep.norm() <= hidden(1, 1, 4, 8).norm() * 1.001  # no stream can grow through depth


@every
def test_every_parameter_learns_and_streams_part(variant: str) -> None:
    first, second = build(variant, gate=0.1), build(variant, index=1, gate=0.1)
    layer = nn.Linear(8, 8)
    probe = hidden(2, 5, 8).flip(0)
    many = second(first(spread(hidden(2, 5, 8), 3), layer), layer)
    (gather(torch.tanh(many)) * probe).sum().backward()
    silent = [name for name, p in second.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-7]
    assert silent == []
    closed = build(variant)
    states = second(build(variant)(spread(hidden(2, 5, 8), 3), layer).detach(), layer)
    (closed(states, layer)[..., 0, :] * probe).sum().backward()
    assert closed.post.grad is not None
    assert closed.post.grad.std() > 1e-5


@every
def test_a_layer_by_hand(variant: str) -> None:
    connection, streams = build(variant, gate=0.5), hidden(2, 3, 3, 8)
    out = connection(streams, torch.sin)
    pre, post, mix = connection.coefficients(streams)
    for b in range(2):
        for t in range(3):
            flat = streams[b, t].flatten()
            said = connection.dynamic.weight @ flat / math.sqrt(float(flat.square().mean()) + 1e-6)
            raw = connection.pre + 0.5 * said[:3]
            torch.testing.assert_close(pre[b, t], raw if variant == "plain" else raw.sigmoid(), rtol=1e-5, atol=1e-6)
            h = sum(pre[b, t, s] * streams[b, t, s] for s in range(3))
            for s in range(3):
                wanted = sum(mix[b, t, s, r] * streams[b, t, r] for r in range(3)) + post[b, t, s] * torch.sin(h)
                torch.testing.assert_close(out[b, t, s], wanted, rtol=1e-5, atol=1e-6)


def test_permutations_are_all_of_them() -> None:
    found = permutations(4)
    assert len({tuple(matrix.flatten().tolist()) for matrix in found}) == 24
    assert torch.equal(found[0], torch.eye(4))
    assert (found.sum(-1) == 1).all()
    assert (found.sum(-2) == 1).all()


def test_too_many_streams_are_refused() -> None:
    with pytest.raises(UsageError, match="2 to 5 streams, not 6"):
        HyperConnection(width=8, streams=6, variant="permutations")
    with pytest.raises(UsageError, match="unknown variant"):
        HyperConnection(width=8, variant="hc")  # type: ignore[arg-type]
