"""Settling by hand-written products: held against the generic path, stage by stage of autograd."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from unittest.mock import patch

import pytest
import torch
from pc_networks import relative, squared
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.models.mlp import MLP
from learning.chain import Chain
from learning.rule import StepReport
from learning.rules.pc.layers import SLOPES, layers_of
from learning.rules.pc.linear_settling import LinearSettling
from learning.rules.pc.settling import Settling
from learning.rules.pc.spc import settling
from learning.rules.predictive_coding import PredictiveCoding
from neurons.specs import Batch, InputSpec, OutputSpec

ROWS = 64


def network(activation: nn.Module, depth: int = 2, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    sizes = [30, *[24, 20, 22, 18][:depth]]
    hidden = [nn.Sequential(nn.Linear(a, b), activation) for a, b in pairwise(sizes)]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], 10)).to(dtype)


def batch(loss: Any, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    y = torch.randint(0, 10, (ROWS,)) if loss is F.cross_entropy else torch.randn(ROWS, 10, dtype=dtype)
    return torch.randn(ROWS, 30, dtype=dtype), y


def step(
    specialised: bool, model: Any, given: Any, loss: Any = None, **options: Any
) -> tuple[list[Tensor], StepReport]:
    rule = PredictiveCoding(**options)
    rule.specialised = specialised
    parts = model if isinstance(model, list) else [model]
    for part in parts:
        part.zero_grad()
    torch.manual_seed(2)
    report = rule.step(model, given, loss=loss)
    return [p.grad for part in parts for p in part.parameters()], report


def assert_both_paths_agree(model: Any, given: Any, loss: Any = None, bound: float = 1e-12, **options: Any) -> None:
    settlings = 2 if options.get("variant") == "cn" else 1  # nudged to either side
    with patch.object(LinearSettling, "run", autospec=True, side_effect=LinearSettling.run) as taken:
        fast, quick = step(True, model, given, loss, **options)
        assert taken.call_count == settlings  # else both were the generic path, and agree of course
        fast = [g.clone() for g in fast]
        after = torch.get_rng_state()
        slow, report = step(False, model, given, loss, **options)
        assert taken.call_count == settlings
    assert torch.equal(after, torch.get_rng_state())
    assert relative(fast, slow) < bound
    assert quick.passes == report.passes
    assert quick.scalars.keys() == report.scalars.keys()
    scale = max(abs(value) for value in report.scalars.values())
    for name, value in report.scalars.items():
        slack = 1e-6 if name in ("lambda_max", "rate") else bound  # differences of gradients, on either path
        assert quick.scalars[name] == pytest.approx(value, rel=slack, abs=slack * scale), name
    assert float(quick.loss.objective) == pytest.approx(float(report.loss.objective), rel=bound)


def used(model: Any, given: Any, loss: Any = None, steps: int = 8, **options: Any) -> LinearSettling:
    """The settling that the rule chooses, run."""
    chain = Chain(model, given, loss)
    found = settling(PredictiveCoding(steps=steps, **options), chain, 0.1)
    assert isinstance(found, LinearSettling)
    found.run(steps)
    return found


@pytest.mark.parametrize("depth", [2, 4])
@pytest.mark.parametrize("loss", [F.cross_entropy, F.mse_loss, squared])
@pytest.mark.parametrize("kind", [*SLOPES, nn.Identity])
def test_every_activation_loss_and_depth(kind, loss, depth):
    model = network(kind(), depth)
    given = batch(loss)
    for wavefront in (True, False):
        assert_both_paths_agree(model, given, loss, steps=7, wavefront=wavefront)
    assert_both_paths_agree(model, given, loss, steps=1)
    assert_both_paths_agree(model, given, loss, steps=2)


OPTIONS: list[dict[str, Any]] = [
    {"precision": 3.0, "inference_rate": 0.4},
    {"inference_rate": 0.7, "steps": 9},
    {"state_optimizer": "momentum", "momentum": 0.5},
    {"state_optimizer": "adam", "inference_rate": 0.01},
    {"precision_schedule": "spiking"},
    {"tolerance": 0.3, "inference_rate": 0.3},
    {"clamp": 1.0},
    {"variant": "pn"},
    {"variant": "nn", "nudge": 0.05},
    {"variant": "cn", "precision": 2.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("depth", [2, 3])
def test_every_option_of_settling(options, depth):
    assert_both_paths_agree(network(nn.Tanh(), depth), batch(F.cross_entropy), F.cross_entropy, **options)


@pytest.mark.parametrize("steps", [8, 20])
@pytest.mark.parametrize("kind", [nn.Tanh, nn.ReLU, nn.GELU])
def test_in_float32_it_is_as_close_to_the_exact_result_as_the_generic_path(kind, steps):
    model, given = network(kind(), 2), batch(F.cross_entropy)
    exact, _ = step(False, model, given, F.cross_entropy, steps=steps)
    exact = [g.clone() for g in exact]
    half = (given[0].float(), given[1])
    fast, _ = step(True, model.float(), half, F.cross_entropy, steps=steps)
    fast = [g.double() for g in fast]
    slow, _ = step(False, model, half, F.cross_entropy, steps=steps)
    assert relative(fast, [g.double() for g in slow]) < 1e-6
    assert relative(fast, exact) < 1e-6


def test_the_gram_form_is_taken_where_it_saves_products_and_only_there():
    given = batch(F.cross_entropy)
    assert used(network(nn.Tanh()), given, F.cross_entropy, steps=20)._gram is not None
    assert used(network(nn.Tanh()), given, F.cross_entropy, steps=2)._gram is None  # G would cost more than it saves
    assert used(network(nn.Tanh()), given, F.cross_entropy, steps=20, state_optimizer="adam")._gram is None
    wide = nn.Sequential(nn.Linear(30, 8), nn.Sequential(nn.Linear(8, 40), nn.Tanh()), nn.Linear(40, 10)).double()
    assert used(wide, given, F.cross_entropy, steps=20)._gram is None  # 40 x 40 is more than 2 x 8 x 40
    assert_both_paths_agree(wide, given, F.cross_entropy)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("activation", ["gelu", "relu", "tanh", "hard_sigmoid"])
def test_our_mlp_with_its_masks(activation, dropout):
    torch.manual_seed(0)
    space = InputSpec("features", 4, 5), OutputSpec("label", 3)
    model = MLP(input=space[0], output=space[1], width=16, layers=3, dropout=dropout, activation=activation).double()
    mask = torch.rand(ROWS, 4) < 0.7
    given = Batch(torch.randn(ROWS, 4, 5).double(), torch.randint(0, 3, (ROWS,)), mask)
    assert isinstance(used(model, given), LinearSettling)
    assert_both_paths_agree(model, given, steps=6)
    assert_both_paths_agree(model, given, loss=lambda x, b: model.readout.loss(x, b), steps=6)  # as a strategy wraps it


def test_tokens_in_rows_shared_frozen_and_missing_parameters():
    torch.manual_seed(0)
    tied = nn.Linear(12, 12, bias=False)
    readout = nn.Sequential(nn.Flatten(), nn.Linear(60, 10))
    model = nn.Sequential(nn.Linear(6, 12), nn.Sequential(tied, nn.Tanh()), nn.Sequential(tied, nn.GELU()), readout)
    model.double()
    model[0].bias.requires_grad_(False)
    given = (torch.randn(ROWS, 5, 6).double(), torch.randint(0, 10, (ROWS,)))
    fast, _ = step(True, model, given, F.cross_entropy)
    fast = [None if g is None else g.clone() for g in fast]
    slow, _ = step(False, model, given, F.cross_entropy)
    assert fast[1] is None is slow[1]
    assert relative([g for g in fast if g is not None], [g for g in slow if g is not None]) < 1e-12


class Subclassed(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(24, 24)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(x)


def hooked(register: str) -> nn.Module:
    stage = nn.Sequential(nn.Linear(24, 24), nn.Tanh())
    getattr(stage[0], register)(lambda module, inputs, *output: None)
    return stage


REFUSED = {
    "norm": lambda: nn.Sequential(nn.Linear(24, 24), nn.LayerNorm(24)),
    "two layers": lambda: nn.Sequential(nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 24)),
    "two activations": lambda: nn.Sequential(nn.Linear(24, 24), nn.Tanh(), nn.ReLU()),
    "activation before": lambda: nn.Sequential(nn.Tanh(), nn.Linear(24, 24)),
    "dropout after": lambda: nn.Sequential(nn.Linear(24, 24), nn.Dropout(0.5)),
    "in place": lambda: nn.Sequential(nn.Linear(24, 24), nn.ReLU(inplace=True)),
    "subclass": lambda: Subclassed(24, 24),
    "skip": Skip,
    "hook": lambda: hooked("register_forward_hook"),
    "pre-hook": lambda: hooked("register_forward_pre_hook"),
    "parametrised": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(24, 24)),
    "own softplus": lambda: nn.Sequential(nn.Linear(24, 24), nn.Softplus()),
}


@pytest.mark.parametrize("name", REFUSED)
def test_any_other_stage_goes_the_generic_way(name):
    model = nn.Sequential(nn.Linear(30, 24), REFUSED[name](), nn.Linear(24, 10)).double()
    chain = Chain(model, batch(F.cross_entropy), F.cross_entropy)
    assert layers_of(chain) is None
    assert type(settling(PredictiveCoding(), chain, 0.1)) is Settling


def test_autocast_and_chains_of_one_hidden_stage_go_the_generic_way():
    given = batch(F.cross_entropy)
    assert layers_of(Chain(nn.Sequential(nn.Linear(30, 24), nn.Linear(24, 10)), given, F.cross_entropy)) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert layers_of(Chain(network(nn.Tanh()), given, F.cross_entropy)) is None


def test_the_first_stage_may_be_anything():
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(30, 24), nn.BatchNorm1d(24), nn.Dropout(0.2))
    model = nn.Sequential(first, nn.Sequential(nn.Linear(24, 20), nn.Tanh()), nn.Linear(20, 10)).double()
    assert_both_paths_agree(model, batch(F.cross_entropy), F.cross_entropy)


def test_targets_that_do_not_count_are_left_to_the_loss():
    x, y = batch(F.cross_entropy)
    y[::3] = -100
    assert_both_paths_agree(network(nn.Tanh()), (x, y), F.cross_entropy)
