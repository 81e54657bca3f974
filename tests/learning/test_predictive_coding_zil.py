"""Z-IL: literal simulation = backprop, and our reverse sweep = both."""

from __future__ import annotations

import pytest
import torch
from pc_networks import CASES, TinyModel, backprop_grads, case, grads, relative, tiny_batch
from torch import Tensor, nn

from learning.rules.predictive_coding import PredictiveCoding


def literal_zil(case) -> list[Tensor]:
    """Song et al. 2020 as written: forward pass, then inference with rate 1 on all states at once; block l takes its
    weight gradient at t = L - l. Errors by one vjp per stage, states updated synchronously."""
    stages, (x, y), loss = case
    last = len(stages) - 1
    states = [x]
    for stage in stages[:-1]:
        states.append(stage(states[-1]).detach())
    total = lambda s: loss(stages[-1](s), y) * len(x)  # noqa: E731
    found: dict[int, list[Tensor]] = {}
    for t in range(last + 1):
        errors = [None, *[states[l] - stages[l - 1](states[l - 1]).detach() for l in range(1, last + 1)]]
        block = last + 1 - t
        parameters = list(stages[block - 1].parameters())
        if block == last + 1:
            found[block] = list(torch.autograd.grad(total(states[last]), parameters))
        else:
            pull = -errors[block]
            found[block] = list(torch.autograd.grad(stages[block - 1](states[block - 1]), parameters, pull))
        moved = [x]
        for l in range(1, last + 1):
            above = (
                -torch.autograd.functional.vjp(total, states[l])[1]
                if l == last
                else torch.autograd.functional.vjp(stages[l], states[l], errors[l + 1])[1]
            )
            moved.append(states[l] - 1.0 * (errors[l] - above))
        states = moved
    return [g / len(x) for block in sorted(found) for g in found[block]]


@pytest.mark.parametrize("name", CASES)
def test_literal_simulation_is_backprop_and_so_is_the_sweep(name):
    one = case(name)
    stages, (x, y), loss = one
    exact = backprop_grads(stages, loss(stages(x), y))
    assert relative(literal_zil(one), exact) < 1e-14
    PredictiveCoding(variant="zil").step(stages, (x, y), loss=loss)
    assert relative(grads(stages), exact) < 1e-14


def test_sweep_is_backprop_on_our_model_with_dropout():
    torch.manual_seed(0)
    model, batch = TinyModel(dropout=0.3).double(), tiny_batch()
    state = torch.get_rng_state()
    exact = backprop_grads(model, model.loss(batch).objective / len(batch))
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    report = PredictiveCoding(variant="zil").step(model, batch)
    assert relative(grads(model), exact) < 1e-14
    assert torch.equal(torch.get_rng_state(), after)
    assert report.passes == 4 + 4 + 3


def test_sweep_sums_over_shared_parameters():
    torch.manual_seed(0)
    shared = nn.Linear(4, 4)
    stages = nn.Sequential(nn.Linear(3, 4), shared, nn.Tanh(), shared, nn.Linear(4, 2)).double()
    x, y = torch.randn(5, 3).double(), torch.randint(0, 2, (5,))
    exact = backprop_grads(stages, nn.functional.cross_entropy(stages(x), y))
    PredictiveCoding(variant="zil").step(stages, (x, y), loss=nn.functional.cross_entropy)
    assert relative(grads(stages), exact) < 1e-14
