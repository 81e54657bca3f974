"""The cache-blocked forms of the branch sum: equal to the equation, gradients too, however the blocks fall."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from neurons.dendrites import branch_sum, sparse_branch_sum
from neurons.dendrites.branch_sum import Tree
from neurons.dendrites.layer import DendriticLayer
from neurons.errors import UsageError
from neurons.ops.sparse import random_index, sparse_sum, sparse_sum_dense, transpose_index, window_index

SLOPE = 0.1
# one token or soma at a time, a ragged last block, one block
CACHED = pytest.mark.parametrize("cached", [1, 40, 2**18])


def leaves(*shapes):
    torch.manual_seed(1)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def tree(width, branches=2, somas=5, tokens=7):
    return leaves((tokens, branches * width), (branches, width, somas), (branches, somas), (branches, somas))


def equation(x, weight, threshold, strength):
    """One branch after the other, with torch's own leaky ReLU."""
    width = weight.shape[1]
    return sum(
        c * F.leaky_relu(x[:, b * width : (b + 1) * width] @ w + t, SLOPE)
        for b, (w, t, c) in enumerate(zip(weight, threshold, strength, strict=True))
    )


def assert_same(fast, slow, args):
    """Values with and without a graph, gradients for a random seed, and second differences of the values."""
    expected = slow(*args)
    torch.testing.assert_close(fast(*args), expected, rtol=1e-11, atol=1e-11)
    with torch.no_grad():
        torch.testing.assert_close(fast(*args), expected.detach(), rtol=1e-11, atol=1e-11)
    seed = torch.randn_like(expected)
    torch.testing.assert_close(torch.autograd.grad(fast(*args), args, seed), torch.autograd.grad(expected, args, seed))
    assert torch.autograd.gradcheck(fast, args)


@CACHED
def test_disjoint_sum(monkeypatch, cached):
    monkeypatch.setattr(branch_sum, "CACHED", cached)
    assert_same(lambda *args: branch_sum.disjoint_branch_sum(Tree(*args), SLOPE), equation, tree(3))


@CACHED
@pytest.mark.parametrize("with_threshold", [False, True])
def test_inputs_from_two_places_share_the_branches(monkeypatch, cached, with_threshold):
    monkeypatch.setattr(branch_sum, "CACHED", cached)
    _, weight, threshold, strength = tree(5)
    x, other, soma = leaves((7, 2 * 3), (7, 2 * 2), (5,))

    def fast(x, other, weight, threshold, strength, soma):
        offset = soma if with_threshold else None
        y = branch_sum.disjoint_branch_sum(Tree(x, weight, threshold, strength, other), SLOPE, offset)
        return y if with_threshold else y + soma

    def slow(x, other, weight, threshold, strength, soma):
        joined = torch.cat([x[:, :3], other[:, :2], x[:, 3:], other[:, 2:]], 1)
        return equation(joined, weight, threshold, strength) + soma

    assert_same(fast, slow, [x, other, weight, threshold, strength, soma])


@CACHED
def test_gated_sum_of_trees_of_different_width(monkeypatch, cached):
    monkeypatch.setattr(branch_sum, "CACHED", cached)
    basal, apical, (threshold,) = tree(3), tree(2), leaves((5,))

    def fast(threshold, *trees):
        return branch_sum.gated_branch_sum(Tree(*trees[:4]), Tree(*trees[4:]), threshold, SLOPE)

    def slow(threshold, *trees):
        return (equation(*trees[:4]) + threshold) * (1 + torch.tanh(equation(*trees[4:])))

    assert_same(fast, slow, [threshold, *basal, *apical])


def test_branches_of_strength_zero_are_silent_and_still_learn():
    args = tree(3)
    with torch.no_grad():
        args[3].zero_()
    y = branch_sum.disjoint_branch_sum(Tree(*args), SLOPE)
    assert torch.equal(y, torch.zeros_like(y))
    fast = torch.autograd.grad(y.sum(), args[3])
    torch.testing.assert_close(fast, torch.autograd.grad(equation(*args).sum(), args[3]))


@CACHED
@pytest.mark.parametrize("rows", [1, 4, 2**11])
def test_sparse_sum_over_branches_equals_the_masked_dense_layer(monkeypatch, cached, rows):
    monkeypatch.setattr(sparse_branch_sum, "CACHED", cached)
    monkeypatch.setattr(sparse_branch_sum, "ROWS", rows)
    somas, branches, inputs = 5, 2, 9
    index = random_index(somas * branches, inputs, 3)
    wiring = transpose_index(index, inputs, sparse_branch_sum.block_rows(somas, branches))
    args = leaves((7, inputs), (somas * branches, 3), (somas, branches), (somas, branches))

    def slow(x, weight, threshold, strength):
        u = sparse_sum_dense(x.t(), weight, index).view(somas, branches, -1) + threshold.unsqueeze(-1)
        return (F.leaky_relu(u, SLOPE) * strength.unsqueeze(-1)).sum(1).t()

    def fast(x, weight, threshold, strength):
        return sparse_branch_sum.sparse_branch_sum(x, weight, wiring, threshold, strength, SLOPE)

    assert_same(fast, slow, args)


@pytest.mark.parametrize("block", [None, 1, 3, 10, 20, 64])
@pytest.mark.parametrize("wiring", ["random", "windows"])
def test_sparse_sum_equals_a_dense_scatter(block, wiring):
    index = random_index(20, 12, 4) if wiring == "random" else window_index(20, (3, 4), (2, 2))
    synapses = transpose_index(index, 12, block)
    args = leaves((12, 6), (20, 4))
    assert_same(lambda *a: sparse_sum(*a, synapses), lambda *a: sparse_sum_dense(*a, index), args)


def test_windows_are_neighbours_at_uniform_places():
    torch.manual_seed(2)
    line = window_index(9000, (12,), (4,))
    assert (line.diff(dim=1) == 1).all()
    starts = torch.bincount(line[:, 0])
    assert len(starts) == 9  # 12 - 4 + 1 places
    assert (starts - 1000).abs().max() < 5 * math.sqrt(1000 * 8 / 9)

    patch = window_index(6000, (5, 6), (3, 3))
    y, x = patch // 6, patch % 6
    corner_y, corner_x = y[:, :1], x[:, :1]
    assert torch.equal(y - corner_y, torch.arange(3).repeat_interleave(3).expand(6000, 9))
    assert torch.equal(x - corner_x, torch.arange(3).repeat(3).expand(6000, 9))
    places = torch.bincount((corner_y * 4 + corner_x).flatten())
    assert len(places) == 3 * 4
    assert (places - 500).abs().max() < 5 * math.sqrt(500 * 11 / 12)


# which of the fast forms a layer of many tokens takes
FORMS: list[dict] = [
    {"apical": 128},
    {"apical": 128, "soma_activation": "leaky_relu"},
    {"apical": 128, "apical_mode": "branch"},
    {"apical": 0},
    {"apical": 64, "inputs": "sparse"},
    {"apical": 64, "inputs": "sparse", "apical_mode": "branch"},
]


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_a_large_layer_takes_the_fast_form_and_equals_its_small_batches(monkeypatch, options):
    """Few tokens take the equation as it stands, so batches of few are the oracle of one of many."""
    torch.manual_seed(3)
    layer = DendriticLayer(**{"basal": 64, "somas": 96, "soma_activation": "linear"} | options).double()
    apical = layer.apical
    for p in layer.parameters():
        torch.nn.init.normal_(p)
    x = torch.randn(700, 64, dtype=torch.float64, requires_grad=True)
    z = torch.randn(700, apical, dtype=torch.float64, requires_grad=True) if apical else None
    wanted = [x, *layer.parameters()] + ([z] if apical else [])
    pieces = zip(x.split(50), z.split(50) if apical else [None] * 14, strict=True)
    slow = torch.cat([layer(*piece) for piece in pieces])
    expected = torch.autograd.grad(slow.square().sum(), wanted)

    def refuse(*_):
        raise AssertionError("the equation as it stands")

    monkeypatch.setattr("neurons.dendrites.layer.branch_sum_reference", refuse)
    fast = layer(x, z)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(torch.autograd.grad(fast.square().sum(), wanted), expected)
    with torch.no_grad():
        torch.testing.assert_close(layer(x, z), slow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("apical", [0, 128])
def test_float32_blocks_are_as_exact_as_the_equation(apical):
    """Against float64, on the fast path."""
    torch.manual_seed(4)
    layer = DendriticLayer(basal=128, somas=256, apical=apical, soma_activation="linear")
    torch.nn.init.normal_(layer.basal_branches.threshold, std=3)
    args = [torch.randn(1024, 128) for _ in range(1 + bool(apical))]
    with torch.no_grad():
        got = layer(*args)
        expected = layer.double()(*(a.double() for a in args))
    assert (got - expected).abs().max() < 2e-5


@pytest.mark.parametrize("inputs", ["disjoint", "sparse"])
@pytest.mark.parametrize("tokens", [5, 400])
def test_apical_synapses_on_basal_branches(inputs: str, tokens: int) -> None:
    """apical_mode 'branch' against a loop over neurons and branches."""
    torch.manual_seed(0)
    basal, apical, somas, branches = 8, 12, 64, 4
    layer = DendriticLayer(
        basal=basal,
        somas=somas,
        apical=apical,
        branches=branches,
        inputs=inputs,  # type: ignore[arg-type]
        synapses=3,
        apical_mode="branch",
        soma_activation="linear",
    ).double()
    torch.nn.init.normal_(layer.basal_branches.threshold)
    torch.nn.init.normal_(layer.threshold)
    x, a = torch.randn(tokens, basal, dtype=torch.float64), torch.randn(tokens, apical, dtype=torch.float64)
    tree = layer.basal_branches
    seen = torch.cat([x, a], 1)
    wanted = torch.zeros(tokens, somas, dtype=torch.float64)
    for s in range(somas):
        for b in range(branches):
            if inputs == "disjoint":
                part = torch.cat([x[:, 2 * b : 2 * b + 2], a[:, 3 * b : 3 * b + 3]], 1)
                u = part @ tree.weight[b, :, s] + tree.threshold[b, s]
            else:
                row = s * branches + b
                u = seen[:, tree.index[row]] @ tree.weight[row] + tree.threshold[b, s]
            wanted[:, s] += layer.strength[b, s] * torch.where(u > 0, u, 0.1 * u)
    torch.testing.assert_close(layer(x, a), wanted + layer.threshold)
    assert layer.apical_strength is None
    with pytest.raises(UsageError, match="built for an apical input"):
        layer(x)


def test_branch_mode_refuses_windows_and_unequal_blocks() -> None:
    with pytest.raises(UsageError, match="Try: apical_mode='gate'"):
        DendriticLayer(basal=8, apical=10, somas=4, branches=4, apical_mode="branch")
