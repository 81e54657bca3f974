"""Forward-forward: goodness tells positive from negative data, stage by stage, and the readout learns by itself."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from locality import crossings, poison
from pc_networks import TinyModel, backprop_grads, grads, relative, tiny_batch
from rule_homes import home
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from learning.chain import Chain
from learning.rules.forward_forward import ForwardForward, blurred_mask, mean_square
from neurons.errors import UsageError
from neurons.specs import Batch


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    found = load_digits()
    order = torch.randperm(len(found.images), generator=torch.Generator().manual_seed(0))
    return torch.tensor(found.images / 16.0).float()[order], torch.tensor(found.target)[order]


def network(*sizes: int) -> nn.Sequential:
    torch.manual_seed(0)
    hidden = [nn.Sequential(nn.Flatten(), nn.Linear(a, b), nn.GELU()) for a, b in pairwise(sizes)]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], 10))


def trained(rule: ForwardForward, stages: nn.Sequential, steps: int = 160) -> tuple[float, dict[str, float]]:
    """Accuracy on test images after ``steps``, and the separation of each stage there."""
    x, y = digits()
    optimiser = torch.optim.Adam(stages.parameters(), 4e-3)
    for i in range(steps):
        at = torch.arange(64) + i * 64 % 1280
        rule.step(stages, (x[at], y[at]), loss=F.cross_entropy)
        optimiser.step()
    report = rule.step(stages, (x[1437:], y[1437:]), loss=F.cross_entropy)
    right = stages(x[1437:]).argmax(1) == y[1437:]
    return float(right.double().mean()), report.scalars


def test_on_digits_goodness_separates_and_the_readout_classifies():
    accuracy, scalars = trained(ForwardForward(), network(64, 128, 128))
    assert accuracy > 0.85
    assert scalars["separation_1"] > 0.95
    assert scalars["separation_2"] > 0.9


@pytest.mark.parametrize("option", [{"objective": "threshold"}, {"negatives": "hybrid"}])
def test_the_other_objective_and_the_other_negatives_on_digits(option):
    accuracy, scalars = trained(ForwardForward(**option), network(64, 128, 128))
    assert accuracy > 0.8
    assert scalars["separation_1"] > 0.7


def test_its_stages_beat_stages_that_do_not_learn_where_depth_loses_what_they_read():
    still = network(64, 96, 96, 96, 96)
    still[:-1].requires_grad_(False)
    random, _ = trained(ForwardForward(), still)
    learned, _ = trained(ForwardForward(), network(64, 96, 96, 96, 96))
    assert learned > random + 0.1


@pytest.mark.parametrize("objective", ["pair", "threshold"])
def test_the_gradient_of_each_stage_is_that_of_its_own_objective(objective):
    """By torch's backward, from the two inputs that the first stage sees and those it hands on."""
    torch.manual_seed(0)
    stages = nn.Sequential(nn.Linear(5, 7), nn.Sequential(nn.Linear(7, 6), nn.Tanh()), nn.Linear(6, 3)).double()
    x, y = torch.randn(8, 5).double(), torch.randint(0, 3, (8,))
    rule = ForwardForward(objective=objective, sharpness=3.0, threshold=0.4)
    before = torch.get_rng_state()
    rule.step(stages, (x, y), loss=F.cross_entropy)
    found = grads(stages)
    torch.set_rng_state(before)
    positive, negative, differ = rule._data(x, (x, y), None)
    assert 0 < differ.sum() < 8 or differ.all()
    total, plain = 0.0, x
    for stage in stages[:-1]:
        plain = stage(plain).detach()
        usual = plain.square().mean().sqrt()
        good, bad = stage(positive), stage(negative)
        g, b = good.square().mean(1), bad.square().mean(1)
        if objective == "pair":
            losses = torch.log1p(torch.exp(3 * (b - g)))
        else:
            losses = torch.log1p(torch.exp(3 * (0.4 - g))) + torch.log1p(torch.exp(3 * (b - 0.4)))
        total = total + losses[differ].mean()
        positive, negative = ((s / s.square().mean(1, keepdim=True).sqrt() * usual).detach() for s in (good, bad))
    wanted = backprop_grads(stages, total + F.cross_entropy(stages[-1](plain), y))
    assert relative(found, wanted) < 1e-12


def test_the_readout_follows_the_delta_rule():
    stages = network(64, 32)
    x, y = digits()
    ForwardForward().step(stages, (x[:50], y[:50]), loss=F.cross_entropy)
    state = stages[0](x[:50]).detach()
    error = stages[-1](state).softmax(1) - F.one_hot(y[:50], 10)
    torch.testing.assert_close(stages[-1].weight.grad, error.T @ state / 50)


def test_labels_say_nothing_by_themselves():
    """Positive and negative samples carry the same labels, equally often, by the same patterns."""
    torch.manual_seed(0)
    x, y = torch.randn(40, 6, 3), torch.randint(0, 3, (40,))
    mask = torch.arange(6) < torch.randint(3, 7, (40, 1))
    x = x * mask[..., None]
    rule = ForwardForward(label_strength=2.0)
    positive, negative, differ = rule._data(x, Batch(x, y, mask), mask)
    codes = [one - x for one in (positive, negative)]
    assert torch.allclose(codes[0].sum(0)[0], codes[1].sum(0)[0], atol=1e-4)  # every sample has a first token
    assert all((code[~mask] == 0).all() for code in codes)
    size = 2 * x.square().mean().sqrt()
    assert torch.allclose(codes[0][mask].abs(), size, atol=1e-5)
    assert torch.equal(differ, (codes[0] - codes[1]).abs().flatten(1).sum(1) > 1e-3)
    shorter = rule._data(x[:, :4], Batch(x[:, :4], y), None)[0] - x[:, :4]
    assert torch.equal(torch.sign(shorter[0]) * mask[0, :4, None], torch.sign(codes[0][0, :4]))


def test_hybrids_are_patches_of_two_samples():
    torch.manual_seed(0)
    model, batch = TinyModel(), tiny_batch(64, 6)
    mask = torch.arange(6) < torch.randint(1, 7, (64, 1))
    rule = ForwardForward(negatives="hybrid")
    positive, negative, differ = rule._data(batch.x, Batch(batch.x, batch.y, mask), mask)
    assert torch.equal(positive, batch.x)
    assert ((negative == batch.x) | (negative == batch.x.roll(1, 0))).all()
    assert torch.equal(negative[~mask], batch.x[~mask])
    assert torch.equal(differ, (negative != batch.x).any(1))
    patches = blurred_mask(torch.zeros(500, 24))
    assert 0.45 < patches.float().mean() < 0.55
    assert (patches[:, 1:] == patches[:, :-1]).float().mean() > 0.75  # patches, not single tokens
    assert blurred_mask(torch.zeros(2, 3, 8, 8)).shape == (2, 1, 8, 8)
    assert rule.supports(model) is None
    report = rule.step(model, Batch(batch.x, batch.y, mask))
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert report.scalars.keys() == {f"separation_{i}" for i in (1, 2, 3)}


def test_goodness_sees_no_padding():
    state = torch.randn(4, 5, 3)
    mask = torch.arange(5) < torch.tensor([5, 2, 1, 3])[:, None]
    wanted = torch.stack([row[keep].square().mean() for row, keep in zip(state, mask, strict=True)])
    torch.testing.assert_close(mean_square(state * mask[..., None], mask), wanted)


def test_no_edge_crosses_a_stage_boundary():
    model, batch, _ = home("forward-forward")
    assert crossings(ForwardForward(), model, batch) == (0, {0, 1, 2})


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_stage_learns_from_its_two_inputs_alone(index):
    torch.manual_seed(0)
    stages = nn.Sequential(*[nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3)], nn.Linear(6, 2))
    data, found = (torch.randn(5, 6), torch.randn(5, 2)), []
    positive, negative, differ = torch.randn(5, 6), torch.randn(5, 6), torch.ones(5, dtype=torch.bool)
    for broken in (False, True):
        here = copy.deepcopy(stages)
        for other in range(4) if broken else ():
            if other != index:
                poison(here[other])
        chain = Chain(here, data, F.mse_loss)
        gradients, *states = ForwardForward().learn(chain, index, positive, negative, differ, torch.tensor(0.5), None)
        found.append([*gradients.values(), *states[1:]])
    assert len(found[0]) == 4
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_both_samples_pass_the_same_dropout():
    seen = []
    stages = nn.Sequential(nn.Sequential(nn.Linear(6, 400), nn.Dropout(0.5)), nn.Linear(400, 2))
    stages[0].register_forward_hook(lambda _, args, out: seen.append(out == 0))
    ForwardForward().step(stages, (torch.randn(5, 6), torch.arange(5) % 2), loss=F.cross_entropy)
    assert torch.equal(seen[1], seen[2])


def test_what_it_needs_is_told():
    assert "no label can be added" in ForwardForward().supports(TinyModel())
    stages, data = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), (torch.randn(3, 2), torch.randn(3, 2))
    with pytest.raises(UsageError, match=r"rule\.negatives=hybrid"):
        ForwardForward().step(stages, data, loss=F.mse_loss)
    for option in ({"negatives": "none"}, {"objective": "both"}, {"sharpness": 0.0}):
        with pytest.raises(UsageError, match=next(iter(option))):
            ForwardForward(**option)
