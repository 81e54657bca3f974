"""Dendritic layer: against loops over neurons, scipy's sparse product, the masked dense layer and published counts."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import scipy.sparse
import scipy.special
import torch

from baselines.flops import count_macs
from neurons.dendrites.layer import DendriticLayer
from neurons.errors import UsageError
from neurons.ops.sparse import random_index, sparse_sum, sparse_sum_dense, transpose_index

F_NUMPY = {
    "leaky_relu": lambda u: u if u > 0 else 0.1 * u,
    "gelu": lambda u: u * 0.5 * (1 + math.erf(u / math.sqrt(2))),
    "tanh": math.tanh,
    "linear": lambda u: u,
}


def build(**options):
    """A float64 layer with every parameter drawn anew, so that no initial zero hides a term."""
    torch.manual_seed(0)
    layer = DendriticLayer(**{"basal": 8, "somas": 5, "branches": 2, "synapses": 3, **options}).double()
    for p in layer.parameters():
        torch.nn.init.normal_(p)
    return layer


def branch_terms(tree, strength, f, x, s):
    """c_sb f(w_sb . x_I(s,b) + theta_sb) of every branch b of soma s, by scalar loops."""
    terms = []
    for b in range(tree.branches):
        if hasattr(tree, "index"):
            row = s * tree.branches + b
            seen, weight = tree.index[row].tolist(), tree.weight[row]
        else:
            width = tree.inputs // tree.branches
            seen, weight = range(b * width, (b + 1) * width), tree.weight[b, :, s]
        u = sum(float(w) * float(x[i]) for w, i in zip(weight, seen, strict=True)) + float(tree.threshold[b, s])
        terms.append(float(strength[b, s]) * f(u))
    return terms


def by_loops(layer, basal, apical):
    f, g = F_NUMPY[layer.activation], F_NUMPY[layer.soma_activation]
    y = np.zeros((len(basal), layer.somas))
    for n in range(len(basal)):
        for s in range(layer.somas):
            terms = branch_terms(layer.basal_branches, layer.strength, f, basal[n], s)
            z = sum(terms) if layer.soma == "sum" else math.prod(1 / (1 + math.exp(-t)) for t in terms)
            z += float(layer.threshold[s])
            if apical is None:
                y[n, s] = g(z)
                continue
            apex = sum(branch_terms(layer.apical_branches, layer.apical_strength, f, apical[n], s))
            y[n, s] = g(z + apex) if layer.apical_mode == "add" else g(z) * (1 + math.tanh(apex))
    return y


@pytest.mark.parametrize("inputs", ["disjoint", "sparse", "local"])
@pytest.mark.parametrize("activation", list(F_NUMPY))
@pytest.mark.parametrize(
    "options",
    [{}, {"soma": "and"}, {"apical": 6}, {"apical": 6, "apical_mode": "add"}, {"apical": 6, "soma": "and"}],
    ids=["sum", "and", "gate", "add", "and-gate"],
)
def test_equals_the_equation_written_as_loops(inputs, activation, options):
    soma_activation = {"leaky_relu": "linear", "gelu": "tanh", "tanh": "leaky_relu", "linear": "gelu"}[activation]
    layer = build(inputs=inputs, activation=activation, soma_activation=soma_activation, **options)
    layer.requires_grad_(False)
    basal = torch.randn(4, 8).double()
    apical = torch.randn(4, 6).double() if layer.apical else None
    expected = by_loops(layer, basal, apical)
    np.testing.assert_allclose(layer(basal, apical).numpy(), expected, rtol=1e-10, atol=1e-12)


def test_and_soma_and_its_gradients_are_those_of_the_naive_product():
    layer = build(soma="and", branches=4, activation="tanh", soma_activation="linear", somas=3)
    x = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    wanted = (x, *layer.parameters())
    factors = torch.sigmoid(torch.tanh(layer.basal_branches(x)) * layer.strength.unsqueeze(1))
    naive = factors[0] * factors[1] * factors[2] * factors[3] + layer.threshold
    torch.testing.assert_close(layer(x), naive, rtol=1e-12, atol=1e-14)
    seed = torch.randn_like(naive)
    got, expected = (torch.autograd.grad(y, wanted, seed) for y in (layer(x), naive))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_and_soma_keeps_its_digits_in_float32_where_sigmoids_vanish():
    """z = exp(sum_b log sigmoid(t_b)) and dz/dt_b = z sigmoid(-t_b), scipy's log of a sigmoid as the reference."""
    layer = build(soma="and", branches=2, synapses=1, activation="linear", soma_activation="linear", somas=1, basal=2)
    with torch.no_grad():
        for p, value in ((layer.basal_branches.weight, 1), (layer.basal_branches.threshold, 0), (layer.strength, 1)):
            p.fill_(value)
        layer.threshold.zero_()
    layer.float()
    t = torch.tensor([[-60.0, 20.0], [-40.0, -40.0], [0.0, 3.0], [90.0, 90.0], [-1e4, 5.0]], requires_grad=True)
    z = layer(t)
    z.sum().backward()
    exact = t.detach().double().numpy()
    product = np.exp(scipy.special.log_expit(exact).sum(1, keepdims=True))
    np.testing.assert_allclose(z.detach().numpy(), product, rtol=2e-5, atol=1e-45)
    np.testing.assert_allclose(t.grad.numpy(), product * scipy.special.expit(-exact), rtol=2e-5, atol=1e-45)
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


def test_sparse_sum_equals_scipy_and_its_gradients_the_masked_dense_product():
    torch.manual_seed(3)
    index = random_index(20, 11, 4)
    wiring = transpose_index(index, 11)
    x, weight = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in [(11, 6), (20, 4)])
    rows = np.repeat(np.arange(20), 4)
    csr = scipy.sparse.csr_matrix((weight.detach().flatten(), (rows, index.flatten())), shape=(20, 11))
    np.testing.assert_allclose(sparse_sum(x, weight, wiring).detach(), csr @ x.detach().numpy(), rtol=1e-12)
    seed = torch.randn(20, 6).double()
    got = torch.autograd.grad(sparse_sum(x, weight, wiring), (x, weight), seed)
    expected = torch.autograd.grad(sparse_sum_dense(x, weight, index), (x, weight), seed)
    torch.testing.assert_close(got, expected)
    assert torch.autograd.gradcheck(lambda a, b: sparse_sum(a, b, wiring), (x, weight))


def test_random_synapses_are_distinct_and_uniform():
    torch.manual_seed(4)
    index = random_index(4000, 20, 5)
    assert all(len(set(row)) == 5 for row in index.tolist())
    drawn = torch.bincount(index.flatten(), minlength=20)
    assert (drawn - 1000).abs().max() < 5 * math.sqrt(4000 * 0.25 * 0.75)  # five binomial standard deviations


def test_parameter_count_is_the_published_formula():
    """Nothing differs: 16 weights, a threshold and a strength per branch, a threshold per soma, and the readout."""
    layer = DendriticLayer(basal=784, somas=512, branches=32, inputs="sparse", synapses=16)
    readout = torch.nn.Linear(512, 10)
    total = sum(p.numel() for module in (layer, readout) for p in module.parameters())
    assert total == 18 * 32 * 512 + 11 * 512 + 10 == 300_554


@pytest.mark.parametrize(("inputs", "synapses"), [("disjoint", 4), ("sparse", 3), ("local", 3)])
def test_macs_are_the_synapses_and_the_strengths(inputs, synapses):
    """The counter sees what the processor multiplies; strengths are elementwise there, one per branch here."""
    layer = DendriticLayer(basal=16, somas=6, apical=16, branches=4, inputs=inputs, synapses=synapses)
    macs = count_macs(lambda: layer(torch.randn(10, 16), torch.randn(10, 16)))
    assert macs == 10 * 2 * 4 * 6 * synapses
    assert layer.macs_per_token() == 2 * 4 * 6 * (synapses + 1)


def test_the_fast_form_of_a_sparse_layer_costs_no_masked_zeros():
    """Forward: synapses and strengths. Backward: potentials again, the input gradient and the weight gradient."""
    tokens, branches, synapses = 256, 8 * 128, 16
    layer = DendriticLayer(basal=784, somas=128, branches=8, inputs="sparse")
    x = torch.randn(tokens, 784, requires_grad=True)
    assert count_macs(lambda: layer(x)) == tokens * layer.macs_per_token() == tokens * branches * (synapses + 1)
    assert count_macs(lambda: layer(x).sum().backward()) == tokens * branches * (4 * synapses + 1)


@pytest.mark.parametrize(("grid", "window"), [(None, (1, 16)), ((28, 28), (4, 4))])
def test_local_branches_see_a_window_only(grid, window):
    """By the gradient: what moves the potential of a branch is a contiguous window, a patch on a grid."""
    torch.manual_seed(8)
    tree = DendriticLayer(basal=784, somas=6, branches=3, inputs="local", grid=grid).basal_branches
    x = torch.randn(1, 784, requires_grad=True)
    for s, b in [(0, 0), (2, 1), (5, 2)]:
        (gradient,) = torch.autograd.grad(tree(x)[b, 0, s], x)
        seen = gradient.view(grid or (1, 784)).nonzero()
        extent = seen.max(0).values - seen.min(0).values + 1
        assert len(seen) == 16
        assert tuple(extent.tolist()) == window
    corners = tree.index.view(18, 16)[:, 0]
    assert len(corners.unique()) > 12


def test_a_branch_sees_its_own_block_only():
    layer = build(branches=4)
    with torch.no_grad():
        layer.strength[1:] = 0
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    layer(x).sum().backward()
    assert (x.grad[:, :2] != 0).all()
    assert (x.grad[:, 2:] == 0).all()


@pytest.mark.parametrize("inputs", ["disjoint", "sparse", "local"])
@pytest.mark.parametrize("activation", ["leaky_relu", "gelu", "tanh", "linear"])
def test_initial_variance_is_kept(inputs, activation):
    torch.manual_seed(5)
    layer = DendriticLayer(basal=128, somas=512, inputs=inputs, activation=activation, soma_activation="linear")
    y = layer(torch.randn(512, 128))
    assert y.square().mean().item() == pytest.approx(1, abs=0.12)
    assert abs(y.mean().item()) < 0.1


@pytest.mark.parametrize("mode", ["gate", "add"])
def test_a_silent_apex_changes_nothing(mode):
    layer = build(apical=6, apical_mode=mode)
    with torch.no_grad():
        layer.apical_branches.threshold.zero_()
    bare = build()
    bare.load_state_dict({k: v for k, v in layer.state_dict().items() if not k.startswith("apical")})
    x = torch.randn(4, 8).double()
    torch.testing.assert_close(layer(x, torch.zeros(4, 6).double()), bare(x), rtol=1e-12, atol=1e-12)


def test_the_apical_gate_amplifies_up_to_twofold_and_never_drives():
    layer = build(apical=6)
    torch.nn.init.zeros_(layer.apical_branches.threshold)
    x = torch.randn(4, 8).double()
    ratio = layer(x, 50 * torch.randn(4, 6).double()) / layer(x, torch.zeros(4, 6).double())
    assert (ratio >= 0).all()
    assert (ratio <= 2 + 1e-9).all()
    assert ratio.max() > 1.9
    assert ratio.min() < 0.1


@pytest.mark.parametrize("inputs", ["disjoint", "sparse"])
def test_tokens_are_independent_and_leading_axes_free(inputs):
    layer = build(inputs=inputs, apical=8)
    x, z = torch.randn(2, 3, 7, 8).double(), torch.randn(2, 3, 7, 8).double()
    y = layer(x, z)
    assert y.shape == (2, 3, 7, 5)
    torch.testing.assert_close(layer(x[1, 2, 4:5], z[1, 2, 4:5]), y[1, 2, 4:5], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("inputs", ["disjoint", "sparse"])
@pytest.mark.parametrize("soma", ["sum", "and"])
def test_every_parameter_gets_gradient(inputs, soma):
    torch.manual_seed(6)
    layer = DendriticLayer(basal=32, somas=8, apical=32, inputs=inputs, soma=soma)
    layer(torch.randn(64, 32), torch.randn(64, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


@pytest.mark.parametrize("inputs", ["disjoint", "sparse"])
def test_bf16_autocast_stays_close_to_float32(inputs):
    torch.manual_seed(7)
    layer = DendriticLayer(basal=32, somas=8, apical=32, inputs=inputs)
    x, z = torch.randn(16, 32), torch.randn(16, 32)
    exact = layer(x, z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = layer(x.bfloat16(), z.bfloat16())
    rough.float().sum().backward()
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("inputs", ["sparse", "local"])
def test_the_state_dict_carries_the_random_wiring(inputs):
    """And the transpose follows it: the loaded layer has the gradients of the saved one."""
    first, second = (DendriticLayer(basal=32, somas=64, inputs=inputs, synapses=5) for _ in range(2))
    x = torch.randn(600, 32, requires_grad=True)
    assert not torch.equal(first(x), second(x))
    assert sum(key.startswith("basal_branches") for key in first.state_dict()) == 3  # weight, threshold, index
    copy.deepcopy(second).load_state_dict(first.state_dict())
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))
    got, expected = (torch.autograd.grad(layer(x).square().sum(), x)[0] for layer in (second, first))
    assert torch.equal(got, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"basal": 10, "branches": 4}, "equal branches"),
        ({"inputs": "sparse", "synapses": 9}, "9 different synapses"),
        ({"inputs": "local", "synapses": 9}, "9 different synapses"),
        ({"inputs": "local", "synapses": 4, "grid": (2, 3)}, "6 basal inputs"),
        ({"inputs": "local", "synapses": 3, "grid": (2, 4)}, "square number"),
        ({"inputs": "sparse", "synapses": 4, "grid": (2, 4)}, "inputs='local'"),
        ({"inputs": "local", "synapses": 4, "grid": (1, 8)}, "does not fit"),
        ({"soma": "ant"}, "Did you mean 'and'"),
        ({"activation": "gelo"}, "Did you mean 'gelu'"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        DendriticLayer(**{"basal": 8, "somas": 2, "branches": 2, **options})


def test_a_missing_apical_input_is_refused():
    with pytest.raises(UsageError, match="apical input of width 6"):
        build(apical=6)(torch.zeros(1, 8).double())
