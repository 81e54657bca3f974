"""What a predictive-coding step leaves as it should: randomness, statistics, parameters, padding, precision."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from pc_networks import TinyModel, case, grads, relative, squared, tiny_batch
from torch import Tensor, nn
from torch.nn import functional as F

from learning.chain import Chain
from learning.rule import StepReport
from learning.rules.backprop import Backprop
from learning.rules.pc.epc import ErrorSettling
from learning.rules.pc.settling import Settling
from learning.rules.pc.variants import VARIANTS
from learning.rules.predictive_coding import PredictiveCoding
from neurons.specs import Batch

pytestmark = pytest.mark.filterwarnings("ignore:fixedpred")
SETTLING = [name for name in VARIANTS if name not in ("fixedpred", "zil")]


def hold(report: StepReport) -> None:
    """The weights stay, so that ipc can be compared."""


class Noise(nn.Module):
    """Dropout that remembers the masks it drew."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.masks: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.masks.append(F.dropout(torch.ones_like(x), 0.5))
        return torch.tanh(self.linear(x)) * self.masks[-1]


@pytest.mark.parametrize("variant", VARIANTS)
def test_dropout_masks_are_those_of_the_forward_pass_and_change_between_steps(variant):
    torch.manual_seed(0)
    stages = nn.Sequential(*[Noise() for _ in range(4)], nn.Sequential(Noise(), nn.Linear(6, 2)))
    x, y = torch.randn(5, 6), torch.randn(5, 2)
    before = torch.get_rng_state()
    rule = PredictiveCoding(variant=variant, steps=6)
    rule.step(stages, (x, y), loss=squared, update=hold)
    after = torch.get_rng_state()
    noisy = [*stages[:-1], stages[-1][0]]
    for stage in noisy[1:]:
        assert len(stage.masks) > 2 or variant not in SETTLING
        assert all(torch.equal(mask, stage.masks[0]) for mask in stage.masks)
    firsts = [stage.masks[0] for stage in noisy]
    assert not any(torch.equal(a, b) for a, b in pairwise(firsts))
    rule.step(stages, (x, y), loss=squared, update=hold)
    assert not torch.equal(noisy[2].masks[-1], firsts[2])
    torch.set_rng_state(before)
    Backprop().step(stages, (x, y), loss=squared)
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize("draws", [(0,), (1,), (3,), (0, 2)])
def test_the_generator_moves_on_as_under_backprop(steps, draws):
    stages = nn.Sequential(*[Noise() if i in draws else nn.Linear(6, 6) for i in range(4)], nn.Linear(6, 2))
    batch = (torch.randn(5, 6), torch.randn(5, 2))
    before = torch.get_rng_state()
    PredictiveCoding(steps=steps).step(stages, batch, loss=squared)
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    Backprop().step(stages, batch, loss=squared)
    assert torch.equal(torch.get_rng_state(), after)
    assert not torch.equal(before, after)


@pytest.mark.parametrize("options", [*({"variant": name} for name in VARIANTS), {"clamp": 1.0}], ids=str)
@pytest.mark.parametrize("norm", [nn.BatchNorm1d(6), nn.InstanceNorm1d(6, track_running_stats=True)])
def test_running_statistics_change_once_a_step_as_under_backprop(norm, options):
    torch.manual_seed(0)
    block = nn.Sequential(
        nn.Unflatten(1, (6, 1)), nn.Linear(1, 3), copy.deepcopy(norm), nn.Flatten(), nn.Linear(18, 6), nn.Tanh()
    )
    stages = nn.Sequential(nn.Linear(6, 6), block, copy.deepcopy(block), nn.Linear(6, 2)).double()
    x, y = torch.randn(5, 6).double(), torch.randn(5, 2).double()
    twin = copy.deepcopy(stages)
    PredictiveCoding(steps=6, **options).step(stages, (x, y), loss=squared, update=hold)
    Backprop().step(twin, (x, y), loss=squared)
    assert stages[2][2].running_mean.abs().max() > 0
    for (name, found), (_, wanted) in zip(stages.named_buffers(), twin.named_buffers(), strict=True):
        assert torch.equal(found, wanted), name
    assert int(stages[1][2].num_batches_tracked) in (0, 1)


def test_a_batch_settled_again_enters_running_statistics_once():
    torch.manual_seed(0)
    stages = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 6)), nn.Linear(6, 2))
    twin = copy.deepcopy(stages)
    batch = (torch.randn(8, 6), torch.randn(8, 2))
    report = PredictiveCoding(inference_rate=8.0, steps=9).step(stages, batch, loss=squared)
    Backprop().step(twin, batch, loss=squared)
    assert report.scalars["retries"] >= 1
    assert int(stages[1][0].num_batches_tracked) == 1
    assert torch.equal(stages[1][0].running_mean, twin[1][0].running_mean)
    quiet = PredictiveCoding(inference_rate=8.0 / 4 ** report.scalars["retries"], steps=9)
    assert report.passes == (report.scalars["retries"] + 1) * quiet.step(twin, batch, loss=squared).passes


class Bomb(nn.Module):
    """Fails at its fourth evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.calls = nn.BatchNorm1d(6), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == 4:
            raise KeyboardInterrupt
        return self.norm(F.dropout(x, 0.5))


def test_an_interruption_while_settling_leaves_the_model_whole():
    stages = nn.Sequential(nn.Linear(6, 6), Bomb(), nn.Linear(6, 2))
    with pytest.raises(KeyboardInterrupt):
        PredictiveCoding().step(stages, (torch.randn(5, 6), torch.randn(5, 2)), loss=squared)
    assert all(p.requires_grad and p.grad is None for p in stages.parameters())
    assert int(stages[1].norm.num_batches_tracked) == 1


def test_a_shared_parameter_gets_the_sum_of_its_stages_gradients():
    torch.manual_seed(0)
    shared = nn.Linear(4, 4)
    tied = nn.Sequential(nn.Linear(3, 4), shared, nn.Tanh(), shared, nn.Linear(4, 2)).double()
    apart = nn.Sequential(*[copy.deepcopy(stage) for stage in tied])
    batch = (torch.randn(5, 3).double(), torch.randn(5, 2).double())
    rule = PredictiveCoding(steps=12)
    rule.step(tied, batch, loss=squared)
    rule.step(apart, batch, loss=squared)
    assert relative([shared.weight.grad], [apart[1].weight.grad + apart[3].weight.grad]) < 1e-14
    assert apart[1].weight.grad.abs().max() > 0


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("victim", [0, 1, 3])
def test_a_frozen_stage_gets_no_gradient_and_passes_errors(variant, victim):
    stages, batch, loss = case("mlp-entropy")
    rule = PredictiveCoding(variant=variant, steps=6)
    rule.step(stages, batch, loss=loss, update=hold)
    free = [[p.grad.clone() for p in stage.parameters()] for stage in stages]
    stages.zero_grad()
    stages[victim].requires_grad_(False)
    rule.step(stages, batch, loss=loss, update=hold)
    for index, stage in enumerate(stages):
        for parameter, wanted in zip(stage.parameters(), free[index], strict=True):
            if index == victim:
                assert parameter.grad is None
                assert not parameter.requires_grad
            else:
                torch.testing.assert_close(parameter.grad, wanted, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_changes_nothing(variant):
    torch.manual_seed(0)
    model, batch = TinyModel().double(), tiny_batch(5, 4)
    rule = PredictiveCoding(variant=variant, steps=15)
    plain = rule.step(model, batch, update=hold)
    wanted = grads(model)
    x = torch.cat([batch.x, torch.randint(1, 20, (5, 3))], 1)
    mask = torch.arange(7).expand(5, 7) < 4
    padded = rule.step(model, Batch(x, batch.y, mask), update=hold)
    assert relative(grads(model), wanted) < 1e-13
    assert padded.scalars == pytest.approx(plain.scalars)


def test_a_plain_model_in_five_lines():
    torch.manual_seed(0)
    x, y = torch.randn(256, 10), torch.randint(0, 3, (256,))
    x[torch.arange(256), y] += 3.0
    model = nn.Sequential(nn.Linear(10, 32), nn.Sequential(nn.ReLU(), nn.Linear(32, 32)), nn.Linear(32, 3))
    optimizer, rule = torch.optim.Adam(model.parameters(), 0.01), PredictiveCoding(steps=8)
    for _ in range(60):
        rule.step(model, (x, y), loss=F.cross_entropy)
        optimizer.step()
    assert float((model(x).argmax(1) == y).float().mean()) > 0.9


def test_in_place_stages_settle_as_their_pure_twins():
    torch.manual_seed(0)
    pure = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    twin = copy.deepcopy(pure)
    twin[1], twin[3] = nn.ReLU(inplace=True), nn.ReLU(inplace=True)
    batch = (torch.randn(4, 5).double(), torch.randn(4, 2).double())
    for model in (pure, twin):
        PredictiveCoding(steps=9).step(model, batch, loss=squared)
    assert relative(grads(twin), grads(pure)) == 0


def test_stages_that_hand_their_input_on_settle_as_copies():
    class Copy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 1.0

    torch.manual_seed(0)
    one = nn.Sequential(nn.Identity(), nn.Linear(5, 6), nn.Identity(), nn.Flatten(), nn.Linear(6, 2)).double()
    twin = nn.Sequential(Copy(), copy.deepcopy(one[1]), Copy(), Copy(), copy.deepcopy(one[4]))
    batch = (torch.randn(4, 5).double(), torch.randn(4, 2).double())
    kept = batch[0].clone()
    for model in (one, twin):
        PredictiveCoding(steps=9).step(model, batch, loss=squared)
    assert relative(grads(one), grads(twin)) < 1e-15
    assert torch.equal(batch[0], kept)


def test_states_are_float32_under_autocast():
    """Of stages whose last operation gives bfloat16."""
    torch.manual_seed(0)
    stages = nn.Sequential(nn.Linear(4, 6), nn.Sequential(nn.Tanh(), nn.Linear(6, 6)), nn.Linear(6, 3))
    chain = Chain(stages, (torch.randn(5, 4), torch.randint(0, 3, (5,))), F.cross_entropy)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert stages[0](torch.randn(5, 4)).dtype == torch.bfloat16
        settling, errors = Settling(chain, rate=0.1), ErrorSettling(chain, rate=0.1)
        settling.run(3)
        errors.run(3)
    assert all(s.dtype == torch.float32 for s in [*settling.states, *errors.free, *settling.predictions])


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_under_autocast_are_near_those_in_float32(variant):
    torch.manual_seed(0)
    model, batch = TinyModel(), tiny_batch()
    rule = PredictiveCoding(variant=variant, steps=12, nudge=1.0 if variant in ("pn", "nn", "cn") else None)
    rule.step(model, batch, update=hold)
    wanted = grads(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rule.step(model, batch, update=hold)
    assert 0 < relative(grads(model), wanted) < 0.03


@pytest.mark.parametrize("variant", VARIANTS)
def test_parts_of_a_batch_accumulate_by_count(variant):
    """Gradients of parts with unequal numbers of targets, weighted by count, are the whole batch's."""
    torch.manual_seed(0)
    stages, (x, y), _ = case("mlp-entropy")
    y[4:] = -100
    y[1] = -100

    def loss(prediction: Tensor, target: Tensor) -> tuple[Tensor, int]:
        return F.cross_entropy(prediction, target, reduction="sum"), int((target != -100).sum())

    rule = PredictiveCoding(variant=variant, steps=6)
    whole = rule.step(stages, (x, y), loss=loss, update=hold)
    wanted, total = grads(stages), [torch.zeros_like(p) for p in stages.parameters()]
    for part in (slice(0, 2), slice(2, 6)):
        report = rule.step(stages, (x[part], y[part]), loss=loss, update=hold)
        share = report.loss.count / whole.loss.count
        total = [t + share * g for t, g in zip(total, grads(stages), strict=True)]
    assert relative(total, wanted) < 1e-13


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_stage_is_plain_gradient_descent_on_the_loss(variant):
    torch.manual_seed(0)
    model, x, y = nn.Sequential(nn.Linear(4, 3)), torch.randn(6, 4), torch.randint(0, 3, (6,))
    PredictiveCoding(variant=variant).step(model, (x, y), loss=F.cross_entropy, update=hold)
    wanted = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    assert relative(grads(model), list(wanted)) < 1e-6
