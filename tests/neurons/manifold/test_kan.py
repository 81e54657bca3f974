"""KAN bases against numpy's polynomials, scipy's integrals and derivatives; layers against a loop over edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor, nn

from neurons.errors import UsageError
from neurons.manifold.kan import KAN, SHAPES, KANLayer, chebyshev, dog, mexican_hat, switch

every = pytest.mark.parametrize("basis", ["dog", "mexican_hat", "switch", "chebyshev"])


@pytest.mark.parametrize("shape", [dog, mexican_hat])
def test_wavelets_have_zero_mean_and_unit_energy(shape: object) -> None:
    value = lambda z: float(shape(torch.tensor(z, dtype=torch.float64)))  # type: ignore[operator] # noqa: E731
    assert abs(quad(value, -12, 12)[0]) < 1e-9
    assert abs(quad(lambda z: value(z) ** 2, -12, 12)[0] - 1) < 1e-9


@pytest.mark.parametrize(("shape", "order"), [(dog, 1), (mexican_hat, 2)])
def test_wavelets_are_derivatives_of_a_gaussian(shape: object, order: int) -> None:
    z = torch.linspace(-3, 3, 24, dtype=torch.float64, requires_grad=True)
    value = torch.exp(-z.square() / 2)
    for _ in range(order):
        (value,) = torch.autograd.grad(value.sum(), z, create_graph=True)
    ratio = shape(z)[1:12] / value[1:12]  # type: ignore[operator]
    torch.testing.assert_close(ratio, ratio[:1].expand(11), rtol=1e-9, atol=0)
    assert (ratio[0] > 0) == (order == 1)  # the hat is upright: minus the second derivative


def test_chebyshev_and_switch() -> None:
    x = torch.linspace(-3, 3, 9, dtype=torch.float64)
    found = chebyshev(x, 6)
    for degree in range(1, 7):
        wanted = np.polynomial.chebyshev.Chebyshev.basis(degree)(np.tanh(x.numpy()))
        np.testing.assert_allclose(found[:, degree - 1], wanted, rtol=0, atol=1e-12)
    np.testing.assert_allclose(switch(x), 1 / np.cosh(x.numpy()) ** 2, rtol=0, atol=1e-12)


@every
def test_a_layer_is_a_sum_over_edges(basis: str) -> None:
    torch.manual_seed(0)
    layer, x = KANLayer(3, 2, basis=basis, centres=4).double(), torch.randn(5, 3).double()  # type: ignore[arg-type]
    weights, wanted = layer.edges.weight.view(2, 3, 4), torch.zeros(5, 2).double()
    for row in range(5):
        for o in range(2):
            total = layer.linear.bias[o].item()
            for i in range(3):
                value = x[row, i].item()
                total += layer.linear.weight[o, i].item() * value / (1 + math.exp(-value))
                for g in range(4):
                    if basis == "chebyshev":
                        phi = math.cos((g + 1) * math.acos(math.tanh(value)))
                    else:
                        centre, scale = -2.5 + 5 * g / 3, 5 / 3
                        phi = SHAPES[basis](torch.tensor((value - centre) / scale, dtype=torch.float64)).item()
                    total += weights[o, i, g].item() * phi
            wanted[row, o] = total
    torch.testing.assert_close(layer(x), wanted, rtol=0, atol=1e-7)


@every
def test_every_parameter_learns_and_only_the_input_is_kept(basis: str) -> None:
    layer, kept = KANLayer(16, 16, basis=basis, centres=8), []  # type: ignore[arg-type]
    x = torch.randn(50, 16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        out = layer(x)
    assert sum(kept) <= x.numel() + 16
    out.square().sum().backward()
    assert [name for name, p in layer.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_gradients_numerically() -> None:
    layer = KANLayer(2, 2, basis="mexican_hat", centres=3).double()
    assert torch.autograd.gradcheck(layer, torch.randn(4, 2, dtype=torch.float64, requires_grad=True))


@every
def test_as_many_parameters_as_the_mlp(basis: str) -> None:
    kan = KAN(width=128, hidden=512, basis=basis, centres=4)  # type: ignore[arg-type]
    mlp = nn.Sequential(nn.Linear(128, 512), nn.GELU(), nn.Linear(512, 128))
    counts = [sum(p.numel() for p in module.parameters()) for module in (kan, mlp)]
    assert abs(counts[0] / counts[1] - 1) < 0.02
    assert kan(torch.randn(2, 3, 128)).shape == (2, 3, 128)


@pytest.mark.parametrize("basis", ["mexican_hat", "switch", "chebyshev"])
def test_an_edge_can_be_a_function_that_no_linear_layer_is(basis: str) -> None:
    layer = KANLayer(1, 1, basis=basis, centres=12)  # type: ignore[arg-type]
    x = torch.linspace(-1.5, 1.5, 200)[:, None]
    target = torch.sin(3 * x) * x
    features = torch.cat([layer.functions(x).flatten(1), nn.functional.silu(x), torch.ones_like(x)], 1).detach()
    solution = torch.linalg.lstsq(features.double(), target.double()).solution
    assert (features.double() @ solution - target).abs().max() < 0.05


def test_what_is_unknown_is_refused() -> None:
    with pytest.raises(UsageError, match=r"unknown KAN basis 'mexican'\. Did you mean 'mexican_hat'"):
        KANLayer(2, 2, basis="mexican")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="2 centres"):
        KANLayer(2, 2, centres=1)
    assert isinstance(KANLayer(2, 2)(torch.zeros(1, 2)), Tensor)
