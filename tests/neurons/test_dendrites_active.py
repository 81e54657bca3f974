"""Active dendrites: against loops over units and segments, numpy's sort and counted products."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from baselines.flops import count_macs
from neurons.dendrites.active import ActiveDendrites, segment_gate, winners
from neurons.errors import UsageError

SAMPLES, INPUTS, UNITS, CONTEXT, SEGMENTS = 5, 12, 7, 4, 3


def build(**options):
    torch.manual_seed(0)
    sizes = {"inputs": INPUTS, "units": UNITS, "context": CONTEXT, "segments": SEGMENTS}
    layer = ActiveDendrites(**{**sizes, **options}).double()
    for p in layer.parameters():
        torch.nn.init.normal_(p)
    return layer


def data(rows=SAMPLES):
    random = torch.Generator().manual_seed(1)
    draw = [
        torch.randn(*shape, dtype=torch.float64, generator=random) for shape in [(SAMPLES, INPUTS), (rows, CONTEXT)]
    ]
    return draw[0].requires_grad_(), draw[1]


def by_loops(layer, x, context):
    """Scalar loops; each unit's synapses by their index."""
    y = np.zeros((len(x), layer.units))
    for n in range(len(x)):
        for u in range(layer.units):
            seen = layer.index[u].tolist() if len(layer.index) else range(layer.inputs)
            drive = sum(float(w) * float(x[n, i]) for w, i in zip(layer.weight[u], seen, strict=True))
            strongest = 0.0
            for segment in layer.segment_weight[u]:
                response = sum(float(v) * float(c) for v, c in zip(segment, context[n], strict=True))
                strongest = response if abs(response) > abs(strongest) else strongest
            y[n, u] = (drive + float(layer.bias[u])) / (1 + math.exp(-strongest))
        if layer.units_won is not None:
            for u in np.argsort(y[n])[: layer.units - layer.units_won]:
                y[n, u] = 0.0
    return y


@pytest.mark.parametrize("options", [{}, {"weight_sparsity": 0.5}, {"units_won": 2}, {"segments": 1}], ids=str)
def test_equals_the_equation_written_as_loops(options):
    layer = build(**options)
    x, context = data()
    with torch.no_grad():
        np.testing.assert_allclose(layer(x, context).numpy(), by_loops(layer, x, context), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("options", [{"weight_sparsity": 0.5}, {"units_won": 2}], ids=str)
def test_gradients_are_those_of_finite_differences(options):
    layer = build(**options)
    x, context = data()
    names = [name for name, _ in layer.named_parameters()]

    def call(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x, context))

    assert torch.autograd.gradcheck(call, (x, *layer.parameters()))


def test_the_gate_takes_the_sign_of_the_strongest_segment():
    segments = torch.tensor([[[1.0, 0.0], [0.0, -2.0]]])
    gates = segment_gate(torch.tensor([[3.0, 1.0], [1.0, 1.0], [0.0, -1.0]]), segments)
    torch.testing.assert_close(gates, torch.sigmoid(torch.tensor([[3.0], [-2.0], [2.0]])))


def test_only_the_strongest_segment_learns():
    layer = build()
    x, context = data(rows=1)
    layer(x, context).sum().backward()
    touched = layer.segment_weight.grad.abs().sum(-1) > 0
    responses = (layer.segment_weight @ context[0]).abs()
    assert torch.equal(touched, torch.nn.functional.one_hot(responses.argmax(1), SEGMENTS).bool())


@pytest.mark.parametrize("shape", [(CONTEXT,), (1, CONTEXT)])
def test_one_context_for_the_batch_is_computed_once(shape):
    layer = build()
    x, context = data(rows=1)
    context = context.view(shape)
    repeated = context.reshape(1, -1).expand(SAMPLES, -1)
    wanted = (x, *layer.parameters())
    torch.testing.assert_close(layer(x, context), layer(x, repeated), rtol=1e-12, atol=1e-14)
    got, expected = (torch.autograd.grad(layer(x, c).square().sum(), wanted) for c in (context, repeated))
    torch.testing.assert_close(got, expected)
    feedforward, tree = SAMPLES * UNITS * INPUTS, UNITS * SEGMENTS * CONTEXT
    assert count_macs(lambda: layer(x, context)) == feedforward + tree
    assert count_macs(lambda: layer(x, repeated)) == feedforward + SAMPLES * tree


def test_winners_keep_their_value_even_below_zero():
    x = torch.tensor([[3.0, -1.0, 2.0, -5.0], [-4.0, -3.0, -2.0, -1.0]])
    expected = torch.tensor([[3.0, 0.0, 2.0, 0.0], [0.0, 0.0, -2.0, -1.0]])
    assert torch.equal(winners(x, 2), expected)
    assert (winners(torch.zeros(3, 8) + 1, 3) != 0).sum(1).tolist() == [3, 3, 3]  # ties: still three


def test_parameters_are_the_weights_that_exist():
    """The network of Iyer et al. at 10 tasks: 784-2048-2048-10, half of the weights, 10 segments on 784 contexts."""
    first = ActiveDendrites(inputs=784, units=2048, context=784, segments=10, weight_sparsity=0.5)
    assert sum(p.numel() for p in first.parameters()) == 2048 * 392 + 2048 + 2048 * 10 * 784
    assert 2 * first.segment_weight.numel() == 32_112_640  # two such layers: the 32 M that the paper adds
    dense = first._dense_weight()
    assert ((dense != 0).sum(1) == 392).all()


def test_the_state_dict_carries_the_wiring():
    first, second = (
        build(weight_sparsity=0.5),
        ActiveDendrites(inputs=INPUTS, units=UNITS, context=CONTEXT, segments=SEGMENTS, weight_sparsity=0.5).double(),
    )
    second.load_state_dict(first.state_dict())
    x, context = data()
    assert torch.equal(first(x, context), second(x, context))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_sparsity": 1.0}, "leaves 0 of 12"),
        ({"weight_sparsity": -0.5}, r"choose one in \[0, 1\)"),
        ({"segments": 0}, "at least one segment"),
        ({"units_won": 8}, "from 1 to 7"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        build(**options)


@pytest.mark.parametrize("shape", [(3,), (2, CONTEXT)])
def test_a_context_that_does_not_fit_is_refused(shape):
    with pytest.raises(UsageError, match="one row per sample"):
        build()(data()[0], torch.zeros(shape, dtype=torch.float64))
