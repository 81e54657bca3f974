"""Which layer has what."""

from __future__ import annotations

import pytest
import torch

from neurons.manifold.block import Gated
from neurons.manifold.fhn_propagation import FHNPropagation
from neurons.manifold.hyper_connections import HyperConnection, StreamSum, spread
from neurons.manifold.layer_aggregation import LayerAggregation, RunningAggregation
from neurons.manifold.plan import per_layer, some_layers
from neurons.specs import Context

KNOWN = ("fhn", "knot", "softmax")


@pytest.mark.parametrize(
    ("pattern", "layers", "expected"),
    [
        ("fhn", 3, "fhn fhn fhn"),
        ("fhn*3,knot", 4, "fhn fhn fhn knot"),
        ("fhn*3,knot", 6, "fhn fhn fhn knot fhn fhn"),
        ("softmax, knot", 5, "softmax knot softmax knot softmax"),
        ("knot * 2,fhn", 3, "knot knot fhn"),
        ("knot+fhn*2", 3, "knot fhn fhn"),
    ],
)
def test_a_pattern_is_repeated_to_the_end(pattern: str, layers: int, expected: str) -> None:
    assert per_layer("attention", pattern, layers, KNOWN) == expected.split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("none", set()), ("all", {0, 1, 2, 3}), ("0", {0}), ("-1", {3}), ("0,2,-1", {0, 2, 3}), ("1+2", {1, 2})],
)
def test_some_layers_by_number(text: str, expected: set[int]) -> None:
    assert some_layers("engram", text, 4) == expected


@pytest.mark.parametrize("streams", [1, 3])
def test_running_aggregation_is_layer_aggregation(streams: int) -> None:
    torch.manual_seed(0)
    states, whole = torch.randn(4, 2, 5, streams, 8), LayerAggregation(width=8, layers=4)
    torch.nn.init.normal_(whole.gate)
    x: torch.Tensor
    kept = None
    for layer in range(4):
        step = RunningAggregation(width=8, first=layer == 0, last=layer == 3)
        if step.gate is not None:
            step.gate.data = whole.gate[layer].data
        if layer == 3:
            x = step(states[3].mean(-2), kept)
        else:
            x = step(states[layer] if streams > 1 else states[layer].squeeze(-2), kept)
            assert x.shape == (2, 5, streams + 1, 8)
            kept = x[..., -1, :]
    torch.testing.assert_close(x, whole(states.mean(-2).permute(1, 2, 0, 3)))


def test_equal_streams_are_summed_to_themselves() -> None:
    x = torch.randn(2, 5, 8)
    for streams in (2, 3, 5):
        torch.testing.assert_close(StreamSum(streams)(spread(x, streams)), x)


def test_the_last_mix_of_streams_has_a_gradient_that_the_plain_mean_would_take() -> None:
    torch.manual_seed(0)
    connection, streams = HyperConnection(width=8, variant="permutations").double(), torch.randn(2, 5, 2, 8).double()
    out = connection(streams, lambda x: torch.tanh(x))
    lost = torch.autograd.grad(out.mean(-2).square().sum(), connection.mix, retain_graph=True)[0]
    found = torch.autograd.grad(StreamSum(2).double()(out).square().sum(), connection.mix)[0]
    assert lost.abs().max() < 1e-12
    assert found.abs().max() > 1e-3


def test_a_closed_gate_is_silent() -> None:
    gated = Gated(FHNPropagation(width=8, causal=True), width=8)
    x = torch.randn(2, 5, 8)
    assert not gated(x, Context()).any()
    torch.nn.init.constant_(gated.gate, 0.5)
    torch.testing.assert_close(gated(x, Context()), 0.5 * gated.mixer(x, Context()))
