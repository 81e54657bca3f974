"""What goes wrong is told in one line, in every variant."""

from __future__ import annotations

import pytest
import torch
from pc_networks import case, grads, relative, squared
from torch import nn

from learning.rules.pc.variants import VARIANTS
from learning.rules.predictive_coding import PredictiveCoding
from neurons.errors import RunError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore:fixedpred")
DESCENDING = [name for name in VARIANTS if name not in ("fixedpred", "zil")]


@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps_is_a_usage_error(steps):
    with pytest.raises(UsageError, match="steps >= 1"):
        PredictiveCoding(steps=steps)


@pytest.mark.parametrize("rate", [0.0, -0.1, float("nan"), float("inf")])
def test_bad_rate_is_a_usage_error(rate):
    with pytest.raises(UsageError, match="inference_rate > 0"):
        PredictiveCoding(inference_rate=rate)


def test_unknown_variant_is_a_usage_error():
    with pytest.raises(UsageError, match=r"spc, ipc, .* not 'sp'\. Did you mean 'spc'"):
        PredictiveCoding(variant="sp")


@pytest.mark.parametrize("rate", [1e3, 1e6])
def test_divergence_names_the_fix_and_leaves_grad_alone(rate):
    one = case("mlp-squared")
    with pytest.raises(RunError, match=r"energy rose from .* Try: rule.inference_rate="):
        PredictiveCoding(inference_rate=rate).step(one.stages, one.batch, loss=one.loss)
    assert all(p.grad is None and p.requires_grad for p in one.stages.parameters())


def test_a_batch_that_diverges_is_settled_again_at_a_quarter_of_the_rate():
    stages, batch, loss = case("mlp-squared")
    report = PredictiveCoding(inference_rate=8.0).step(stages, batch, loss=loss)
    retries = int(report.scalars["retries"])
    assert retries >= 1
    found = grads(stages)
    again = PredictiveCoding(inference_rate=8.0 / 4**retries).step(stages, batch, loss=loss)
    assert again.scalars["retries"] == 0
    assert relative(found, grads(stages)) == 0.0


@pytest.mark.parametrize("precision", [0.0, -1.0, float("nan")])
def test_bad_precision_is_a_usage_error(precision):
    with pytest.raises(UsageError, match="precision > 0"):
        PredictiveCoding(precision=precision)


def test_nan_input_is_told_apart_from_divergence():
    stages, (x, y), loss = case("mlp-squared")
    x[2, 1] = float("nan")
    with pytest.raises(RunError, match="nan before settling"):
        PredictiveCoding().step(stages, (x, y), loss=loss)


@pytest.mark.parametrize("variant", VARIANTS)
def test_nan_input_is_told_by_every_variant(variant):
    stages, (x, y), loss = case("conv")
    x[2, 1, 0, 0] = float("nan")
    with pytest.raises(RunError, match="nan before settling"):
        PredictiveCoding(variant=variant).step(stages, (x, y), loss=loss, update=lambda report: None)
    assert all(p.grad is None or variant == "ipc" for p in stages.parameters())
    assert all(p.requires_grad for p in stages.parameters())


@pytest.mark.parametrize("variant", DESCENDING)
def test_every_descent_tells_that_it_diverges(variant):
    one = case("mlp-squared")
    rule = PredictiveCoding(variant=variant, inference_rate=1e6)
    with pytest.raises(RunError, match=r"predictive coding diverges: .* Try: rule.inference_rate="):
        rule.step(one.stages, one.batch, loss=one.loss, update=lambda report: None)
    assert all(p.requires_grad for p in one.stages.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_empty_batch_is_a_usage_error(variant):
    stages, (x, y), loss = case("mlp-entropy")
    with pytest.raises(UsageError, match="empty"):
        PredictiveCoding(variant=variant).step(stages, (x[:0], y[:0]), loss=loss, update=lambda report: None)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stage_used_twice_gets_the_sum_of_both(variant):
    torch.manual_seed(0)
    shared = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    tied = nn.Sequential(nn.Linear(3, 4), shared, shared, nn.Linear(4, 2)).double()
    apart = nn.Sequential(nn.Linear(3, 4), *[nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2)])
    apart.append(nn.Linear(4, 2)).double().load_state_dict(tied.state_dict())
    batch = torch.randn(5, 3).double(), torch.randn(5, 2).double()
    rule = PredictiveCoding(variant=variant, steps=12)
    for model in (tied, apart):
        rule.step(model, batch, loss=squared, update=lambda report: None)
    total = apart[1][0].weight.grad + apart[2][0].weight.grad
    assert relative([shared[0].weight.grad], [total]) < 1e-14
    assert relative([total], [apart[1][0].weight.grad]) > 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_to_learn_below_the_readout_is_no_error(variant):
    """All hidden stages frozen, or without parameters."""
    torch.manual_seed(0)
    stages = nn.Sequential(nn.Flatten(), nn.Linear(6, 5).requires_grad_(False), nn.Tanh(), nn.Linear(5, 2))
    x, y = torch.randn(4, 2, 3), torch.randn(4, 2)
    rule = PredictiveCoding(variant=variant, steps=3)
    rule.step(stages, (x, y), loss=squared, update=lambda report: None)
    assert stages[1].weight.grad is None
    assert stages[3].weight.grad.abs().max() > 0


@pytest.mark.parametrize("variant", ["nn", "cn"])
def test_a_negative_nudge_that_outweighs_the_errors_is_told(variant):
    """Squared error has no upper bound: at nudge 9 its curvature beats that of the errors."""
    one = case("mlp-squared")
    with pytest.raises(RunError, match=r"runs away: at nudge 9 .* Try: rule.nudge=2.2"):
        PredictiveCoding(variant=variant, nudge=9.0, steps=60).step(one.stages, one.batch, loss=one.loss)
    assert all(p.grad is None for p in one.stages.parameters())
    PredictiveCoding(variant=variant, steps=60).step(one.stages, one.batch, loss=one.loss)
