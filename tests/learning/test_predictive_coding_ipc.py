"""iPC: states and weights descend together."""

from __future__ import annotations

import pytest
import torch
from pc_networks import TinyModel, case, grads, relative, tiny_batch
from torch import nn
from torch.nn import functional as F

from learning.rules.predictive_coding import PredictiveCoding
from neurons.errors import UsageError


@pytest.mark.parametrize("name", ["mlp-entropy", "conv", "residual", "gamma"])
def test_states_and_weights_are_those_of_two_optimisers_on_one_energy(name):
    """After the first state step, torch's SGD on all states and on all weights, from one backward pass each time."""
    one, twin = case(name), case(name)
    stages, (x, y), loss = twin
    states = []
    for stage in stages[:-1]:
        states.append(stage(states[-1] if states else x).detach().requires_grad_())
    settle, learn = torch.optim.SGD(states, lr=0.1), torch.optim.SGD(stages.parameters(), lr=0.05)

    def descend():
        below = [x, *states]
        total = len(x) * loss(stages[-1](below[-1]), y)
        for s, f, b in zip(states, stages[:-1], below, strict=False):
            total = total + 0.5 * (s - f(b)).square().sum()
        settle.zero_grad()
        learn.zero_grad()
        total.backward()
        for parameter in stages.parameters():
            parameter.grad /= len(x)

    descend()
    settle.step()
    for _ in range(4):
        descend()
        settle.step()
        learn.step()
    descend()
    learn.step()  # the one that the trainer makes

    optimiser = torch.optim.SGD(one.stages.parameters(), lr=0.05)
    reports = []

    def update(report):
        reports.append(report)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    rule = PredictiveCoding(variant="ipc", steps=5)
    report = rule.step(one.stages, one.batch, loss=one.loss, update=update)
    optimiser.step()
    assert len(reports) == 4
    assert all(r.loss.count == 6 and not r.loss.objective.requires_grad for r in reports)
    assert reports[0].passes < reports[-1].passes < report.passes
    assert relative([p.detach() for p in one.stages.parameters()], [p.detach() for p in stages.parameters()]) < 1e-13


@pytest.mark.parametrize("steps", [1, 6])
def test_with_the_weights_held_it_is_spc(steps):
    one, found = case("residual"), []
    for variant in ("ipc", "spc"):
        rule = PredictiveCoding(variant=variant, steps=steps, precision=2.0)
        report = rule.step(one.stages, one.batch, loss=one.loss, update=lambda report: None)
        found.append((grads(one.stages), report.scalars))
    assert relative(found[0][0], found[1][0]) < 1e-13
    assert found[0][1]["stationarity"] == pytest.approx(found[1][1]["stationarity"], rel=1e-10)


def test_it_asks_for_the_update_it_needs():
    one = case("mlp-entropy")
    with pytest.raises(UsageError, match=r"weight step after every state step: give step\(..., update=\)"):
        PredictiveCoding(variant="ipc").step(one.stages, one.batch, loss=one.loss)
    PredictiveCoding(variant="ipc", steps=1).step(one.stages, one.batch, loss=one.loss)


def test_it_learns():
    torch.manual_seed(0)
    x, y = torch.randn(256, 10), torch.randint(0, 3, (256,))
    x[torch.arange(256), y] += 3.0
    model = nn.Sequential(nn.Linear(10, 32), nn.Sequential(nn.ReLU(), nn.Linear(32, 32)), nn.Linear(32, 3))
    optimiser = torch.optim.Adam(model.parameters(), 0.003)
    rule = PredictiveCoding(variant="ipc", steps=5)
    for _ in range(30):
        rule.step(model, (x, y), loss=F.cross_entropy, update=lambda report: optimiser.step())
        optimiser.step()
    assert float((model(x).argmax(1) == y).float().mean()) > 0.9


def test_it_trains_our_model():
    torch.manual_seed(0)
    model, batch = TinyModel().double(), tiny_batch()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    energies = []
    for _ in range(12):
        rule = PredictiveCoding(variant="ipc", steps=4)
        energies.append(rule.step(model, batch, update=lambda report: optimiser.step()).scalars["energy_start"])
        optimiser.step()
    assert energies[-1] < energies[0]
