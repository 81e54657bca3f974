"""Dendritic layer: against loops over neurons, scipy's sparse product, the masked dense layer and published counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from neurons.dendrites import branch_sum
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


@pytest.mark.parametrize("inputs", ["disjoint", "sparse"])
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


def test_and_soma_is_a_product_of_sigmoids_even_where_the_product_underflows():
    layer = build(soma="and", branches=4, activation="linear", soma_activation="linear", somas=3)
    torch.nn.init.zeros_(layer.threshold)
    x = torch.randn(6, 8).double()
    direct = torch.sigmoid(layer.basal_branches(x) * layer.strength.unsqueeze(1)).prod(0)
    torch.testing.assert_close(layer(x), direct, rtol=1e-12, atol=0)
    layer.float()(torch.full((1, 8), -1e4)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


@pytest.mark.parametrize("cached", [1, 40, 2**17])
def test_disjoint_branch_sum_and_its_gradients_equal_the_reference(monkeypatch, cached):
    monkeypatch.setattr(branch_sum, "CACHED", cached)  # one token, a ragged last block, one block
    torch.manual_seed(1)
    shapes = [(7, 6), (2, 3, 5), (2, 5), (2, 5)]
    args = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]

    def reference(x, weight, threshold, strength):
        potential = torch.stack([x[:, 3 * b : 3 * b + 3] @ weight[b] + threshold[b] for b in range(2)])
        return branch_sum.branch_sum_reference(potential, strength, lambda u: F.leaky_relu(u, 0.1))

    fast, slow = branch_sum.disjoint_branch_sum(*args, 0.1), reference(*args)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    seed = torch.randn_like(slow)
    torch.testing.assert_close(torch.autograd.grad(fast, args, seed), torch.autograd.grad(slow, args, seed))
    assert torch.autograd.gradcheck(lambda *a: branch_sum.disjoint_branch_sum(*a, 0.1), args)


@pytest.mark.parametrize("cached", [1, 40, 2**17])
def test_sparse_branch_sum_and_its_gradients_equal_the_masked_dense_layer(monkeypatch, cached):
    monkeypatch.setattr(branch_sum, "CACHED", cached)
    torch.manual_seed(2)
    somas, branches, inputs = 5, 2, 9
    wiring = transpose_index(random_index(somas * branches, inputs, 3), inputs)
    shapes = [(inputs, 7), (somas * branches, 3), (somas, branches), (somas, branches)]
    args = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]

    def fast(x, weight, threshold, strength):
        return branch_sum.sparse_branch_sum(x, weight, wiring, threshold, strength, 0.1)

    def slow(x, weight, threshold, strength):
        u = sparse_sum_dense(x, weight, wiring.inputs).view(somas, branches, -1) + threshold.unsqueeze(-1)
        return (F.leaky_relu(u, 0.1) * strength.unsqueeze(-1)).sum(1)

    torch.testing.assert_close(fast(*args), slow(*args), rtol=1e-12, atol=1e-12)
    seed = torch.randn(somas, 7).double()
    got, expected = (torch.autograd.grad(f(*args), args, seed) for f in (fast, slow))
    torch.testing.assert_close(got, expected)
    assert torch.autograd.gradcheck(fast, args)


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
    layer = DendriticLayer(basal=784, somas=512, branches=32, inputs="sparse", synapses=16)
    readout = torch.nn.Linear(512, 10)
    total = sum(p.numel() for module in (layer, readout) for p in module.parameters())
    assert total == 18 * 32 * 512 + 11 * 512 + 10 == 300_554


def test_macs_are_those_a_flop_counter_sees_plus_the_branch_strengths():
    layer = DendriticLayer(basal=16, somas=6, apical=8, branches=4, activation="gelu")
    with FlopCounterMode(display=False) as counter:
        layer(torch.randn(10, 16), torch.randn(10, 8))
    assert layer.macs_per_token() == counter.get_total_flops() // 2 // 10 + 2 * 4 * 6
    assert DendriticLayer(basal=784, somas=3, branches=2, inputs="sparse").macs_per_token() == 3 * 2 * (16 + 1)


def test_a_branch_sees_its_own_block_only():
    layer = build(branches=4)
    with torch.no_grad():
        layer.strength[1:] = 0
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    layer(x).sum().backward()
    assert (x.grad[:, :2] != 0).all()
    assert (x.grad[:, 2:] == 0).all()


@pytest.mark.parametrize("inputs", ["disjoint", "sparse"])
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


def test_the_state_dict_carries_the_random_wiring():
    first, second = (DendriticLayer(basal=32, somas=8, inputs="sparse") for _ in range(2))
    x = torch.randn(4, 32)
    assert not torch.equal(first(x), second(x))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"basal": 10, "branches": 4}, "equal branches"),
        ({"inputs": "sparse", "synapses": 9}, "9 different synapses"),
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
