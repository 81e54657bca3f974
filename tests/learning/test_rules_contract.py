"""What every registered rule promises."""

from __future__ import annotations

import pytest
import torch
from pc_networks import TinyModel, backprop_grads, case, grads, relative, tiny_batch
from rule_homes import home
from torch import nn

from learning import RULES
from learning.rules.backprop import Backprop
from learning.rules.predictive_coding import PredictiveCoding
from learning.rules.probe import gradient_cosine
from neurons.errors import UsageError


@pytest.fixture(params=RULES.names())
def rule(request):
    return RULES.build(request.param)


def step(rule, dropout: float = 0.0):
    model, batch, _ = home(rule.name, dropout)
    rule.prepare(model)
    return model, rule.step(model, batch)


def test_deterministic(rule):
    (one, first), (two, second) = (step(RULES.build(rule.name), dropout=0.2) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(grads(one), grads(two), strict=True))
    assert first.scalars == second.scalars
    assert float(first.loss.objective) == float(second.loss.objective)


def test_fills_every_trainable_parameter_and_changes_none(rule):
    model, batch, weight = home(rule.name)
    frozen = model.get_parameter(weight).requires_grad_(False)
    rule.prepare(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    report = rule.step(model, batch)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        if parameter.requires_grad:
            assert parameter.grad.isfinite().all()
            assert parameter.grad.abs().max() > 0, name
    assert frozen.grad is None
    assert not frozen.requires_grad
    assert report.loss.count == 5
    assert report.passes >= 1
    assert not report.loss.objective.requires_grad
    assert report.mean == pytest.approx(float(model.loss(batch).reported.detach()) / 5)


def test_replaces_what_grad_held(rule):
    model, _ = step(rule)
    wanted = grads(model)
    for parameter in model.parameters():
        parameter.grad.fill_(7.0)
    rule.step(model, home(rule.name).batch)
    assert relative(grads(model), wanted) < 1e-6


def test_runs_where_grad_is_off(rule):
    wanted = grads(step(rule)[0])
    with torch.no_grad():
        model, _ = step(RULES.build(rule.name))
    assert relative(grads(model), wanted) == 0


def test_options_are_stored_unchanged(rule):
    for option in RULES.entry(rule.name).options:
        assert getattr(rule, option.name) == option.default
        if type(option.default) in (int, float):
            changed = option.default + 1
            assert getattr(RULES.build(rule.name, **{option.name: changed}), option.name) == changed


def test_state_round_trip(rule):
    step(rule)
    state = {key: value.clone() for key, value in rule.state_dict().items()}
    other = RULES.build(rule.name)
    other.load_state_dict(state)
    assert other.state_dict().keys() == state.keys()
    assert all(torch.equal(other.state_dict()[key], value) for key, value in state.items())


def test_says_what_it_cannot_train(rule):
    model = home(rule.name).model
    assert rule.supports(model) is None
    model.lost = nn.Parameter(torch.zeros(1))
    assert "lost" in rule.supports(model)
    reason = rule.supports(TinyModel())
    assert reason is None or len(reason) > 20
    assert (reason is None) == (type(home(rule.name).model) is TinyModel)


def test_controls_build(rule):
    control = rule.control()
    if control is not None:
        exact = RULES.build(rule.name, **control)
        assert exact.control() is None
        torch.manual_seed(0)
        model, batch = TinyModel().double(), tiny_batch()
        assert gradient_cosine(exact, model, batch)["cosine"] == pytest.approx(1.0, abs=1e-12)


def test_unknown_options_are_refused():
    with pytest.raises(UsageError, match="inference_rate"):
        RULES.build("predictive-coding", inference_rat=0.1)


def test_backprop_is_torchs_backward():
    for name in ("mlp-entropy", "attention"):
        stages, (x, y), loss = case(name)
        wanted = backprop_grads(stages, loss(stages(x), y))
        Backprop().step(stages, (x, y), loss=loss)
        assert relative(grads(stages), wanted) < 1e-14
    torch.manual_seed(0)
    model, batch = TinyModel().double(), tiny_batch()
    wanted = backprop_grads(model, model.loss(batch).objective / 5)
    Backprop().step(model, batch)
    assert relative(grads(model), wanted) < 1e-14


class Negated(Backprop):
    """Backprop, upside down in the readout."""

    def step(self, model, batch, *, loss=None, update=None):
        report = super().step(model, batch, loss=loss, update=update)
        for parameter in model.readout.parameters():
            parameter.grad.neg_()
        return report


def test_probe_measures_cosines_and_leaves_everything_as_found():
    torch.manual_seed(0)
    model, batch = TinyModel(dropout=0.3), tiny_batch()
    model.stages[1].norm.weight.grad = mark = torch.ones(8)
    model.register_buffer("unused", torch.zeros(1))
    before, generator = [p.detach().clone() for p in model.parameters()], torch.get_rng_state()
    same = gradient_cosine(Backprop(), model, batch)
    assert same.keys() == {"cosine", "cosine_1", "cosine_2", "cosine_3", "cosine_4"}
    assert list(same.values()) == pytest.approx([1.0] * 5)
    flipped = gradient_cosine(Negated(), model, batch)
    assert flipped["cosine_4"] == pytest.approx(-1.0)
    assert flipped["cosine_2"] == pytest.approx(1.0)
    settled = gradient_cosine(PredictiveCoding(steps=30), model, batch)
    assert 0.2 < settled["cosine"] < 0.99999
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert model.stages[1].norm.weight.grad is mark
    assert model.stages[2].norm.weight.grad is None


def test_probe_restores_running_statistics():
    stages = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4)), nn.Linear(4, 2))
    before = {key: value.clone() for key, value in stages.state_dict().items()}
    batch = (torch.randn(6, 3), torch.randint(0, 2, (6,)))
    gradient_cosine(PredictiveCoding(), stages, batch, nn.functional.cross_entropy)
    assert all(torch.equal(value, before[key]) for key, value in stages.state_dict().items())
