"""The deep residual MLP: what its blocks compute, its variance over depth, and predictive coding on it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from baselines.models.mlp import ACTIVATIONS, MLP
from baselines.models.residual_mlp import ResidualMLP
from learning import RULES
from learning.rules.pc.mupc import SCALE
from neurons.errors import UsageError
from neurons.specs import Batch, Context, InputSpec, OutputSpec

SPECS = {"input": InputSpec("features", 4, 5), "output": OutputSpec("label", 3)}


def batch(rows: int = 32) -> Batch:
    torch.manual_seed(1)
    return Batch(torch.randn(rows, 4, 5), torch.randint(0, 3, (rows,)))


def test_it_is_a_linear_map_residual_blocks_and_a_linear_readout():
    model, given = ResidualMLP(**SPECS, width=6, layers=3, activation="tanh"), batch()
    first, *blocks, readout = model.stages
    x = F.linear(given.x.flatten(1), first.linear.weight, first.linear.bias)
    for block in blocks:
        x = x + F.linear(torch.tanh(x), block.linear.weight, block.linear.bias)
    torch.testing.assert_close(model(given), F.linear(x, readout.linear.weight, readout.linear.bias))


def test_the_stream_keeps_its_size_at_any_depth():
    sizes = []
    for layers in (2, 128):
        torch.manual_seed(0)
        model, x = ResidualMLP(**SPECS, width=64, layers=layers), batch().x
        for stage in model.stages[:-1]:
            x = stage(x, Context())
        sizes.append(float(x.detach().square().mean()))
    assert 0.5 < sizes[1] / sizes[0] < 2


def test_mupc_sees_the_skips():
    model = ResidualMLP(**SPECS, width=16, layers=4)
    RULES.build("predictive-coding", parametrisation="mupc").prepare(model)
    scales = [float(getattr(stage.linear, SCALE)) for stage in model.stages]
    assert scales == pytest.approx([20**-0.5, *[(16 * 6) ** -0.5] * 4, 1 / 16])


def test_mupc_with_adam_wants_a_rate_that_grows_with_the_root_of_the_width():
    """Adam moves every weight by its rate, and the weight acts through a scale of 1 / sqrt(width)."""
    losses = {}
    for rate in (2e-3, 1e-1):
        torch.manual_seed(0)
        model, given = ResidualMLP(**SPECS, width=32, layers=2), batch()
        rule = RULES.build("predictive-coding", parametrisation="mupc", steps=6, inference_rate=0.5)
        rule.prepare(model)
        adam = torch.optim.Adam(model.parameters(), lr=rate)
        for _ in range(30):
            report = rule.step(model, given)
            adam.step()
        losses[rate] = report.mean
    assert losses[2e-3] > 0.8  # chance is 1.1
    assert losses[1e-1] < 0.4


def test_activations_of_the_mlp():
    for name, kind in ACTIVATIONS.items():
        model = MLP(**SPECS, width=8, layers=2, activation=name)
        assert sum(type(module) is kind for module in model.modules()) == 2
    with pytest.raises(UsageError, match="Did you mean 'tanh'"):
        MLP(**SPECS, activation="tnh")
    with pytest.raises(UsageError, match="cannot answer 'token'"):
        ResidualMLP(input=SPECS["input"], output=OutputSpec("token", 3))


def test_what_a_stage_names_as_its_composition_is_all_it_does():
    torch.manual_seed(0)
    model, x = MLP(**SPECS, width=8, layers=3, dropout=0.4, activation="relu"), torch.randn(16, 8)
    for stage in model.stages[1:]:
        torch.manual_seed(5)
        expected = nn.Sequential(*stage.composition())(x)
        torch.manual_seed(5)
        assert torch.equal(stage(x, Context()), expected)


@pytest.mark.parametrize("activation", ["tanh", "hard_sigmoid"])
def test_equilibrium_propagation_runs_on_the_mlp(activation):
    rule = RULES.build("equilibrium-propagation")
    model = MLP(**SPECS, width=8, layers=2, dropout=0.0, activation=activation)
    assert rule.supports(model) is None
    report = rule.step(model, batch())
    assert report.scalars["stationarity"] < 1e-3
    assert rule.supports(MLP(**SPECS)) is not None  # GELU is not monotone
