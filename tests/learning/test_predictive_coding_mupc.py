"""muPC: unit variance, forward scales, and what they are for: forward pass and curvature that depth leaves alone."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from pc_networks import Residual, TinyModel, backprop_grads, case, grads, relative, tiny_batch
from torch import Tensor, nn
from torch.nn import functional as F

from learning.chain import Chain
from learning.rules.pc.mupc import parametrise, unsuited
from learning.rules.pc.settling import Settling
from learning.rules.predictive_coding import PredictiveCoding
from neurons.errors import UsageError


def chain(depth: int, width: int = 16, skip: bool = True) -> nn.Sequential:
    torch.manual_seed(depth)
    hidden = [Residual(width) if skip else nn.Sequential(nn.Tanh(), nn.Linear(width, width)) for _ in range(depth - 2)]
    return nn.Sequential(nn.Linear(10, width), *hidden, nn.Linear(width, 4))


@pytest.mark.parametrize(("skip", "hidden"), [(True, 1 / math.sqrt(16 * 6)), (False, 1 / 4)])
def test_scales_are_the_papers(skip, hidden):
    stages = chain(6, skip=skip)
    parametrise(stages)
    linears = [m for m in stages.modules() if isinstance(m, nn.Linear)]
    wanted = [1 / math.sqrt(10), *[hidden] * 4, 1 / 16]
    x = torch.randn(3, 16)
    for linear, scale in zip(linears, wanted, strict=True):
        assert float(linear.mupc_scale) == pytest.approx(scale)
        assert float(linear.weight.detach().square().mean()) == pytest.approx(1.0)
        assert linear.bias.abs().max() == 0
        part = x[:, : linear.in_features]
        torch.testing.assert_close(linear(part), scale * part @ linear.weight.T)


def test_of_several_in_one_branch_the_last_takes_the_depth():
    model = TinyModel(depth=3).double()
    parametrise(model)
    mix = model.stages[2]
    assert float(mix.up.mupc_scale) == pytest.approx(1 / 4)  # 16 inputs
    assert float(mix.down.mupc_scale) == pytest.approx(1 / math.sqrt(16 * 5))  # behind a skip, five stages
    assert float(model.readout.linear.mupc_scale) == pytest.approx(1 / 8)
    batch = tiny_batch()
    wanted = backprop_grads(model, model.loss(batch).objective / 5)
    PredictiveCoding(variant="zil").step(model, batch)
    assert relative(grads(model), wanted) < 1e-14


def test_depth_leaves_forward_pass_and_curvature_alone():
    torch.manual_seed(0)
    x, y = torch.randn(8, 10), torch.randint(0, 4, (8,))
    sizes, curvatures, plain = [], [], []
    for depth in (4, 16, 64):
        stages = chain(depth)
        wide = copy.deepcopy(stages)
        for stage in wide[1:-1]:
            nn.init.normal_(stage.linear.weight, std=1 / 4)  # unit variance over fan-in, no depth factor
        plain.append(Settling(Chain(wide, (x, y), F.cross_entropy), rate=0.1).curvature())
        parametrise(stages)
        sizes.append(float(stages[:-1](x).detach().square().mean().sqrt()))
        curvatures.append(Settling(Chain(stages, (x, y), F.cross_entropy), rate=0.1).curvature())
    assert all(0.5 < size < 3 for size in sizes)
    assert curvatures == sorted(curvatures, reverse=True)
    assert 4 <= curvatures[-1] < 4.3  # 4 is the limit of a chain of identities
    assert plain[-1] > 7


def test_it_is_done_once_and_travels_with_the_weights():
    stages = chain(5)
    rule = PredictiveCoding(parametrisation="mupc")
    rule.prepare(stages)
    with torch.no_grad():
        stages[1].linear.weight.mul_(3.0)  # as if trained
    x = torch.randn(2, 10)
    before = stages(x)
    rule.prepare(stages)
    assert torch.equal(stages(x), before)
    other = chain(5)
    with pytest.raises(RuntimeError, match="mupc_scale"):
        other.load_state_dict(stages.state_dict())
    rule.prepare(other)
    other.load_state_dict(stages.state_dict())
    assert torch.equal(other(x), before)
    PredictiveCoding().prepare(plain := chain(5))
    assert not hasattr(plain[0], "mupc_scale")


def test_weights_of_zeros_stay_silent():
    stages = chain(5)
    nn.init.zeros_(stages[2].linear.weight)
    parametrise(stages)
    assert stages[2].linear.weight.abs().max() == 0
    assert stages(torch.randn(2, 10)).isfinite().all()


class Two(nn.Module):
    """Takes (B, T, D) only, keeps no skip."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x - x.mean(dim=-2, keepdim=True))


def test_where_it_has_no_meaning_it_says_so():
    rule = PredictiveCoding(parametrisation="mupc")
    assert "nn.Linear weights, and stage 1 has '0.weight' (4, 2, 3, 3)" in str(rule.supports(case("conv").stages))
    assert "in_proj_weight" in str(rule.supports(case("attention").stages))
    assert "2 stages" in str(unsuited(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))))
    shared = nn.Linear(4, 4)
    assert "shares" in str(unsuited(nn.Sequential(nn.Linear(3, 4), shared, nn.Tanh(), shared, nn.Linear(4, 2))))
    assert rule.supports(TinyModel()) is None
    assert rule.supports(nn.Sequential(nn.Linear(8, 8), Two(), nn.Linear(8, 2))) is None
    with pytest.raises(UsageError, match=r"nn\.Linear weights"):
        rule.prepare(case("conv").stages)


def test_a_deep_chain_learns():
    torch.manual_seed(0)
    x, y = torch.randn(128, 10), torch.randint(0, 4, (128,))
    x[torch.arange(128), y] += 3.0
    stages = chain(14)
    rule = PredictiveCoding(parametrisation="mupc", steps=14, inference_rate=0.3)
    rule.prepare(stages)
    optimiser = torch.optim.Adam(stages.parameters(), 0.02)
    for _ in range(30):
        rule.step(stages, (x, y), loss=F.cross_entropy)
        optimiser.step()
    assert float((stages(x).argmax(1) == y).float().mean()) > 0.85
