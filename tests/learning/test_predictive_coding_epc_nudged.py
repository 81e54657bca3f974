"""A nudged ePC: the equilibrium of nudged states, backprop in the limit, and a deep chain that a few steps settle."""

from __future__ import annotations

import pytest
import torch
from pc_networks import backprop_grads, case, grads, relative
from torch import nn
from torch.nn import functional as F

from learning.rules.predictive_coding import PredictiveCoding


@pytest.mark.parametrize("name", ["mlp-entropy", "residual"])
def test_its_equilibrium_is_that_of_nudged_states(name):
    one, found = case(name), []
    for variant in ("epc", "pn"):
        rule = PredictiveCoding(variant=variant, nudge=0.2, steps=2500, inference_rate=0.3)
        report = rule.step(one.stages, one.batch, loss=one.loss)
        found.append((grads(one.stages), report.scalars))
    assert relative(found[0][0], found[1][0]) < 1e-9
    assert found[0][1]["energy"] == pytest.approx(found[1][1]["energy"], rel=1e-9)


def test_it_goes_to_backprop_as_the_nudge_goes_to_nothing():
    one = case("mlp-entropy")
    x, y = one.batch
    for stage in one.stages:
        x = stage(x)
    wanted, errors = backprop_grads(one.stages, one.loss(x, y)), []
    for nudge in (1e-2, 1e-3):
        PredictiveCoding(variant="epc", nudge=nudge, steps=200).step(one.stages, one.batch, loss=one.loss)
        errors.append(relative(grads(one.stages), wanted))
    assert errors[0] < 0.05
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.2)  # O(nudge)


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        nn.init.normal_(self.linear.weight, std=0.3 / width**0.5)

    def forward(self, x):
        return x + self.linear(torch.tanh(x))


def test_a_few_steps_settle_a_deep_chain():
    torch.manual_seed(0)
    stages = [nn.Linear(6, 8), *(Residual(8) for _ in range(64)), nn.Linear(8, 3)]
    batch = torch.randn(16, 6), torch.randint(0, 3, (16,))
    left = {}
    for nudge in (None, 1e-2):
        rule = PredictiveCoding(variant="epc", nudge=nudge, steps=8, inference_rate=0.5)
        report = rule.step(stages, batch, loss=F.cross_entropy)
        left[nudge] = report.scalars["stationarity"]
    assert left[1e-2] < 0.02 < 5 * left[1e-2] < left[None]
