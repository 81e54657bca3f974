"""Schedules, optimisers and seeds against closed forms, torch's own and published values."""

import math
import random

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from learning import OPTIMIZERS, SCHEDULES
from learning.optimizers import parameter_groups
from learning.schedules import multiplier
from learning.seeds import _GOLDEN, _mix, seed_everything, seed_step, step_seed
from neurons.errors import UsageError


def curve(name, steps, warmup, **options):
    schedule = SCHEDULES.build(name, **options)
    return [multiplier(schedule, step, steps=steps, warmup=warmup) for step in range(steps)]


def torch_curve(make, steps):
    """Multipliers of one of torch's schedulers at base rate 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine_is_torchs(final):
    want = torch_curve(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 40, eta_min=final), 40)
    assert curve("cosine", 40, 0.0, final=final) == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("final", [0.0, 0.25])
def test_linear_is_torchs(final):
    want = torch_curve(lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, max(final, 1e-300), 40), 40)
    assert curve("linear", 40, 0.0, final=final) == pytest.approx(want, abs=1e-12)


def test_warmup_is_a_ramp_that_ends_where_the_schedule_starts():
    got = curve("cosine", 100, 0.1)
    assert got[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert got[10] == 1.0
    assert got[55] == pytest.approx((1 + math.cos(math.pi / 2)) / 2)
    assert 0 < got[-1] < 1e-3
    assert curve("constant", 20, 0.25) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0] + [1.0] * 15)


@pytest.mark.parametrize("name", SCHEDULES.names())
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.0), (1, 0.05), (1, 1.0), (7, 1.0), (1000, 0.05)])
def test_every_schedule_stays_in_bounds_and_moves_at_every_step(name, steps, warmup):
    assert all(0 < value <= 1 for value in curve(name, steps, warmup))


def test_unknown_schedule_names_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'cosine'"):
        SCHEDULES.build("cosin")


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        seed_everything(0)
        self.table, self.linear, self.norm = nn.Embedding(5, 4), nn.Linear(4, 5), nn.LayerNorm(4)
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)

    def forward(self, x):
        return self.linear(self.norm(self.table(x)))


TORCH = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, foreach=False),
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.05, foreach=False),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.05, foreach=False),
}


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_optimizer_is_torchs_with_decay_on_matrices_only(name):
    ours, theirs = Parts(), Parts()
    optimizer = OPTIMIZERS.build(name).build(ours, lr=0.05, weight_decay=0.1)
    plain = [theirs.table.weight, theirs.linear.bias, theirs.norm.weight, theirs.norm.bias]
    reference = TORCH[name](
        [{"params": [theirs.linear.weight], "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    )
    for _ in range(5):
        for model, stepper in ((ours, optimizer), (theirs, reference)):
            stepper.zero_grad()
            nn.functional.cross_entropy(model(torch.arange(5)), torch.arange(5).flip(0)).backward()
            stepper.step()
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    assert not torch.equal(ours.table.weight, Parts().table.weight)


def test_adamw_decays_by_its_closed_form():
    """With a zero gradient only the decay acts: w (1 - lr * decay)."""
    model = Parts()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    OPTIMIZERS.build("adamw").build(model, lr=0.1, weight_decay=0.5).step()
    for name, parameter in model.named_parameters():
        factor = 0.95 if name == "linear.weight" else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


def test_options_reach_torch():
    groups = OPTIMIZERS.build("adamw", beta1=0.8, beta2=0.95, eps=1e-6).build(Parts(), lr=0.1, weight_decay=0.0)
    assert groups.defaults["betas"] == (0.8, 0.95)
    assert groups.defaults["eps"] == 1e-6
    assert OPTIMIZERS.build("adam", beta1=0.7).build(Parts(), lr=0.1, weight_decay=0.0).defaults["betas"][0] == 0.7
    assert OPTIMIZERS.build("sgd", momentum=0.5).build(Parts(), lr=0.1, weight_decay=0.0).defaults["momentum"] == 0.5


def test_a_tied_parameter_is_updated_once_and_a_tied_embedding_does_not_decay():
    model = nn.ModuleList([nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)])
    model[1].weight = model[0].weight
    groups = parameter_groups(model, 0.1)
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(1, 0.0)]


def test_mix_is_splitmix64():
    """First outputs of splitmix64 from state 0, as published with its reference implementation."""
    assert _mix(_GOLDEN) == 0xE220A8397B1DCDAF
    assert _mix(2 * _GOLDEN % 2**64) == 0x6E789E6AA1B965F4


def test_step_seeds_are_distinct_uniform_63_bit_numbers():
    grid = [step_seed(seed, i, rank) for seed in range(8) for i in range(500) for rank in range(4)]
    assert len(set(grid)) == len(grid)
    assert len({value & 0xFFFFFFFF for value in grid}) == len(grid)  # torch's CPU generator uses 32 bits of the seed
    assert min(grid) >= 0
    assert max(grid).bit_length() == 63
    for shift in (0, 24, 55):
        counts = np.bincount([value >> shift & 0xFF for value in grid], minlength=256)
        assert scipy.stats.chisquare(counts).pvalue > 1e-4
    flips = [bin(step_seed(1, i) ^ step_seed(1, i ^ 1)).count("1") for i in range(0, 400, 2)]
    assert np.mean(flips) == pytest.approx(31.5, abs=1.2)
    assert step_seed(1, 0) != step_seed(0, 1)


def test_seed_step_draws_what_seed_everything_draws():
    def draws():
        return random.random(), np.random.random(), torch.rand(3).tolist()  # noqa: NPY002

    seed_everything(step_seed(5, 9, 2))
    want = draws()
    assert draws() != want
    seed_step(5, 9, torch.device("cpu"), rank=2)
    assert draws() == want
