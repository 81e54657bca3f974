"""Equilibrium propagation: the gradient of the loss at the free fixed point, from three relaxations."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from locality import crossings, poison
from pc_networks import TinyModel, backprop_grads, case, grads, relative
from rule_homes import home
from torch import Tensor, nn
from torch.nn import functional as F

from learning.chain import Chain
from learning.rules.backprop import Backprop
from learning.rules.energy import Relaxation
from learning.rules.equilibrium_propagation import EquilibriumPropagation
from learning.rules.settle import frozen
from neurons.errors import DivergedError, UsageError


def network(activation: type[nn.Module] = nn.Tanh) -> tuple[nn.Sequential, tuple[Tensor, Tensor]]:
    """Three hidden layers, each linear map and activation an item of its own."""
    torch.manual_seed(0)
    sizes = (5, 8, 7, 6)
    hidden: list[nn.Module] = []
    for a, b in pairwise(sizes):
        hidden += [nn.Linear(a, b), activation()]
    return nn.Sequential(*hidden, nn.Linear(6, 3)).double(), (torch.randn(9, 5).double(), torch.randint(0, 3, (9,)))


def free_loss(stages: nn.Sequential, x: Tensor, y: Tensor, g: float) -> Tensor:
    """By brute force: all states at once, 400 times, with autograd through all of it (recurrent backpropagation)."""
    linears, rho = [m for m in stages if isinstance(m, nn.Linear)], stages[1]
    states = [torch.zeros(len(x), layer.out_features).double() for layer in linears[:-1]]
    for _ in range(400):
        new = []
        for index, layer in enumerate(linears[:-1]):
            drive = layer(x if index == 0 else states[index - 1])
            if index + 1 < len(states):
                drive = drive + g * states[index + 1] @ linears[index + 1].weight
            new.append(rho(drive))
        states = new
    return F.cross_entropy(linears[-1](states[-1]), y)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Hardsigmoid, nn.Sigmoid])
@pytest.mark.parametrize("g", [0.4, 1.0])
def test_for_small_nudges_it_is_recurrent_backpropagation(activation, g):
    stages, (x, y) = network(activation)
    wanted = backprop_grads(stages, free_loss(stages, x, y, g))
    report = EquilibriumPropagation(beta=1e-3, steps=80, feedback=g).step(stages, (x, y), loss=F.cross_entropy)
    assert relative(grads(stages), wanted) < 1e-5
    assert report.scalars["stationarity"] < 1e-8
    assert report.scalars["free_loss"] == pytest.approx(float(free_loss(stages, x, y, g).detach()), rel=1e-9)


def test_it_matches_finite_differences_of_the_loss_at_the_fixed_point():
    stages, (x, y) = network()
    EquilibriumPropagation(beta=1e-3, steps=80, feedback=0.5).step(stages, (x, y), loss=F.cross_entropy)
    for layer, place in ((0, (2, 3)), (2, (1, 4)), (4, (5, 0)), (6, (1, 2))):
        weight, sides = stages[layer].weight, []
        with torch.no_grad():
            for change in (1e-5, -2e-5):
                weight[place] += change
                sides.append(float(free_loss(stages, x, y, 0.5)))
            weight[place] += 1e-5
        assert float(weight.grad[place]) == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-4, abs=1e-7)


def test_the_error_of_a_centred_nudge_is_quadratic():
    stages, (x, y) = network()
    wanted, errors = backprop_grads(stages, free_loss(stages, x, y, 0.5)), []
    for beta in (0.4, 0.2):
        EquilibriumPropagation(beta=beta, steps=80, feedback=0.5).step(stages, (x, y), loss=F.cross_entropy)
        errors.append(relative(grads(stages), wanted))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


def test_with_faint_feedback_it_is_backprop_and_the_fixed_point_is_the_forward_pass():
    stages, (x, y) = network()
    wanted = backprop_grads(stages, F.cross_entropy(stages(x), y))
    report = EquilibriumPropagation(beta=0.01, steps=10, feedback=1e-3).step(stages, (x, y), loss=F.cross_entropy)
    assert relative(grads(stages), wanted) < 3e-3
    assert report.scalars["feedback_gap"] < 1e-3
    assert report.mean == pytest.approx(float(F.cross_entropy(stages(x), y).detach()))


def relaxed(stages: nn.Sequential, batch: tuple[Tensor, Tensor], g: float, beta: float, steps: int):
    relaxation = Relaxation(Chain(stages, batch, F.cross_entropy), feedback=g)
    with relaxation:
        forward, _ = relaxation.start()
        return relaxation, relaxation.relax(forward, beta, steps)[0]


def test_every_sweep_lowers_the_energy():
    stages, (x, y) = network()

    def energy(states: list[Tensor]) -> float:
        total, below = torch.zeros(()).double(), x
        for index, s in enumerate(states):
            well = s * torch.atanh(s) + 0.5 * torch.log1p(-(s**2))  # derivative atanh
            total = total + 0.9**index * (well.sum() - (s * stages[2 * index](below)).sum())
            below = s
        return float((total + 0.1 * 0.9**2 * 9 * F.cross_entropy(stages[-1](below), y)).detach())

    energies = [energy(relaxed(stages, (x, y), 0.9, 0.1, steps)[1]) for steps in range(8)]
    assert all(a > b for a, b in pairwise(energies))


def test_a_weight_learns_from_the_activities_at_its_two_ends():
    """dW_l = -(s+_l s+_{l-1}^T - s-_l s-_{l-1}^T) / (2 beta), contrastive Hebbian learning, at g = 1."""
    stages, (x, y) = network()
    rule = EquilibriumPropagation(beta=0.3, steps=6, feedback=1.0)
    rule.step(stages, (x, y), loss=F.cross_entropy)
    relaxation, free = relaxed(stages, (x, y), 1.0, 0.0, 6)
    with relaxation:
        up, down = (relaxation.relax(free, beta, 6)[0] for beta in (0.3, -0.3))
    for index in (1, 2):
        wanted = -(up[index].T @ up[index - 1] - down[index].T @ down[index - 1]) / (2 * 0.3 * 9)
        torch.testing.assert_close(stages[2 * index].weight.grad, wanted, rtol=1e-10, atol=1e-13)
        bias = -(up[index] - down[index]).sum(0) / (2 * 0.3 * 9)
        torch.testing.assert_close(stages[2 * index].bias.grad, bias, rtol=1e-10, atol=1e-13)


def test_convolutions_relax_through_their_transposes():
    torch.manual_seed(0)
    first, second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 3)
    stages = nn.Sequential(
        nn.Sequential(first, nn.Hardsigmoid()),
        nn.Sequential(nn.AvgPool2d(2), second, nn.Tanh()),
        nn.Sequential(nn.Flatten(), nn.Linear(12, 4)),
    ).double()
    batch = case("conv").batch
    _, (low, high) = relaxed(stages, batch, 0.5, 0.0, 60)
    with torch.no_grad():
        back = F.interpolate(F.conv_transpose2d(high, second.weight), scale_factor=2) / 4
        torch.testing.assert_close(low, F.hardsigmoid(first(batch[0]) + 0.5 * back), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(high, torch.tanh(second(F.avg_pool2d(low, 2))), rtol=1e-10, atol=1e-12)
    EquilibriumPropagation(feedback=0.01, beta=0.01).step(stages, batch, loss=F.cross_entropy)
    found = grads(stages)
    assert relative(found, backprop_grads(stages, F.cross_entropy(stages(batch[0]), batch[1]))) < 0.02


def test_it_learns_what_the_forward_pass_then_answers():
    torch.manual_seed(0)
    stages = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2))
    x = torch.rand(256, 2) * 2 - 1
    y = (x[:, 0] * x[:, 1] > 0).long()  # exclusive or
    optimiser = torch.optim.Adam(stages.parameters(), 0.02)
    for _ in range(120):
        report = EquilibriumPropagation(steps=5).step(stages, (x, y), loss=F.cross_entropy)
        optimiser.step()
    assert (stages(x).argmax(1) == y).double().mean() > 0.95
    assert report.scalars["free_loss"] < 0.1


def test_all_phases_see_the_dropout_of_the_forward_pass():
    model, batch, _ = home("equilibrium-propagation", dropout=0.3)
    before, masks = torch.get_rng_state(), []
    model.stages[1].dropout.register_forward_hook(lambda _, args, out: masks.append((out == 0) & (args[0] != 0)))
    EquilibriumPropagation(steps=3).step(model, batch)
    after = torch.get_rng_state()
    assert len(masks) > 8
    assert masks[0].any()
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    torch.set_rng_state(before)
    Backprop().step(model, batch)
    assert torch.equal(torch.get_rng_state(), after)


def test_no_edge_crosses_a_layer_boundary():
    model, batch, _ = home("equilibrium-propagation")
    assert crossings(EquilibriumPropagation(steps=3), model, batch) == (0, {0, 1, 2})
    assert not model.stages[0].activation._forward_pre_hooks


def test_distant_nan_leaves_moves_and_updates_untouched():
    torch.manual_seed(0)
    hidden = [nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(4)]
    stages, batch = nn.Sequential(*hidden, nn.Linear(6, 3)), (torch.randn(5, 6), torch.randint(0, 3, (5,)))
    found = []
    for broken in (False, True):
        here = copy.deepcopy(stages)
        relaxation = Relaxation(Chain(here, batch, F.cross_entropy), feedback=0.5)
        with relaxation:
            states, _ = relaxation.start()
            up, down = (relaxation.relax(states, beta, 3)[0] for beta in (0.1, -0.1))
            if broken:
                poison(here[3])
            with frozen(relaxation.chain.parameters):
                moves = [relaxation.update(index, up, 0.1) for index in range(4)]
            gradients = relaxation.gradients([up, down], 0.1)
        found.append((moves, [[gradients[id(p)] for p in stage.parameters()] for stage in here]))
    (moves, updates), (moved, updated) = found
    assert [torch.equal(a, b) for a, b in zip(moves, moved, strict=True)] == [True, True, False, False]
    for index in (0, 1, 2, 4):
        assert all(torch.equal(a, b) for a, b in zip(updates[index], updated[index], strict=True))


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.activation = nn.Linear(4, 4), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.activation(self.linear(x))


def test_what_has_no_energy_is_told():
    rule = EquilibriumPropagation()
    assert rule.supports(network()[0]) is None
    assert "stage 1 holds a Embedding ('table')" in rule.supports(TinyModel())
    assert "holds a GELU" in rule.supports(nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2)))
    assert "ends without a Tanh" in rule.supports(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)))
    assert "holds a Linear" in rule.supports(nn.Sequential(nn.Sequential(nn.Tanh(), nn.Linear(4, 4)), nn.Linear(4, 2)))
    data = torch.randn(3, 4), torch.randint(0, 2, (3,))
    with pytest.raises(UsageError, match="stage 1 does more than drive and activate"):
        rule.step(nn.Sequential(Skip(), nn.Linear(4, 2)), data, loss=F.cross_entropy)
    with pytest.raises(DivergedError, match="does not settle"):
        rule.step(network()[0], (torch.full((2, 5), torch.nan).double(), data[1][:2]), loss=F.cross_entropy)
    for option in ("beta", "steps", "feedback"):
        with pytest.raises(UsageError, match=f"{option} > 0"):
            EquilibriumPropagation(**{option: 0})
