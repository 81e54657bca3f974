"""The instruments: what they show is what happened, and they leave no trace."""

from __future__ import annotations

import json

import pytest
import torch
from pc_networks import TinyModel, case, grads, relative, tiny_batch
from torch import distributed

from learning.chain import Chain
from learning.distributed import reduce_max
from learning.rules.backprop import Backprop
from learning.rules.pc import descent
from learning.rules.pc.settling import Settling
from learning.rules.pc.trace import Trace
from learning.rules.pc.variants import VARIANTS
from learning.rules.predictive_coding import PredictiveCoding
from learning.rules.probe import gradient_cosine, probe

pytestmark = pytest.mark.filterwarnings("ignore:fixedpred")
DESCENDING = [name for name in VARIANTS if name not in ("fixedpred", "zil")]


def test_energies_over_settling_are_those_of_shorter_settlings():
    one = case("residual")
    found = probe(PredictiveCoding(steps=5), one.stages, one.batch, one.loss)
    assert len(found.energies) == 6
    assert len(found.stationarity) == 5
    for steps in range(1, 6):
        scalars = PredictiveCoding(steps=steps).step(one.stages, one.batch, loss=one.loss).scalars
        *hidden, loss = found.energies[steps]
        assert hidden == pytest.approx([scalars[f"energy_{l}"] for l in range(1, 6)], rel=1e-10, abs=1e-18)
        assert sum(hidden) + loss == pytest.approx(scalars["energy"], rel=1e-12)
        assert found.stationarity[steps - 1] == pytest.approx(scalars["stationarity"], rel=1e-12)
    assert found.energies[0][:-1] == [0.0] * 5
    assert found.energies[0][-1] == pytest.approx(scalars["energy_start"])


@pytest.mark.parametrize("variant", DESCENDING)
def test_every_descent_can_be_probed(variant):
    one = case("mlp-entropy")
    rule = PredictiveCoding(variant=variant, steps=4)
    found = probe(rule, one.stages, one.batch, one.loss)
    assert len(found.energies) == len(found.stationarity) + 1 == 5
    assert all(len(row) == len(one.stages) for row in found.energies)
    assert found.rate == 0.1
    assert found.lambda_max > 0.5
    assert found.drive == pytest.approx(0.4 * found.lambda_max)
    assert found.cosines == gradient_cosine(rule, one.stages, one.batch, one.loss)
    plain = rule.step(one.stages, one.batch, loss=one.loss, update=lambda report: None)
    assert found.passes == plain.passes
    assert min(found.seconds, found.backprop_seconds) > 0
    assert json.loads(json.dumps(found.document()))["rate"] == 0.1
    assert rule.trace is None


def test_lambda_max_is_the_curvature_and_the_rate_the_one_used():
    one = case("residual")
    curvature = Settling(Chain(*one), rate=1.0).curvature()
    found = probe(PredictiveCoding(inference_rate=40.0, clamp=0.5, steps=3), one.stages, one.batch, one.loss)
    assert found.lambda_max == pytest.approx(curvature)
    assert found.rate == pytest.approx(0.5 / curvature)
    again = probe(PredictiveCoding(inference_rate=8.0, steps=9), one.stages, one.batch, one.loss)
    assert again.rate in (2.0, 0.5, 0.125)  # what a retry settled on
    assert len(again.stationarity) == 9


def test_rules_that_do_not_settle_have_cosine_and_cost_only():
    one = case("mlp-entropy")
    for rule in (Backprop(), PredictiveCoding(variant="zil")):
        found = probe(rule, one.stages, one.batch, one.loss)
        assert found.cosines["cosine"] == pytest.approx(1.0)
        assert found.energies == found.stationarity == []
        assert found.lambda_max is found.rate is found.drive is None


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_probe_leaves_everything_as_found(variant):
    torch.manual_seed(0)
    model, batch = TinyModel(dropout=0.3), tiny_batch()
    clamp = 1.0 if variant not in ("fixedpred", "zil") else None
    rule = PredictiveCoding(variant=variant, steps=3, clamp=clamp)
    kept, generator = [p.detach().clone() for p in model.parameters()], torch.get_rng_state()
    probe(rule, model, batch)
    assert all(torch.equal(p, k) and p.grad is None for p, k in zip(model.parameters(), kept, strict=True))
    assert torch.equal(torch.get_rng_state(), generator)
    assert rule.state_dict() == {}


def test_being_watched_changes_nothing():
    torch.manual_seed(0)
    model, batch = TinyModel(dropout=0.3), tiny_batch()
    found = []
    for trace in (None, Trace()):
        torch.manual_seed(1)
        rule = PredictiveCoding(steps=4)
        rule.trace = trace
        rule.step(model, batch)
        found.append((grads(model), torch.get_rng_state()))
    assert relative(found[0][0], found[1][0]) == 0.0
    assert torch.equal(found[0][1], found[1][1])


def test_decisions_are_those_of_the_process_that_has_furthest_to_go(monkeypatch):
    def largest(tensor, op):
        assert op is distributed.ReduceOp.MAX
        tensor.clamp_min_(7.0)

    assert reduce_max(3.0) == 3.0
    assert reduce_max(float("nan")) == float("inf")
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_backend", lambda: "gloo")
    monkeypatch.setattr(distributed, "all_reduce", largest)
    assert reduce_max(3.0) == 7.0
    assert reduce_max(9.0) == 9.0


def test_another_process_that_is_not_settled_keeps_this_one_going(monkeypatch):
    one = case("mlp-entropy")
    rule = PredictiveCoding(steps=80, tolerance=0.1)
    alone = rule.step(one.stages, one.batch, loss=one.loss).scalars["steps"]
    assert alone < 80
    seen = []
    monkeypatch.setattr(
        descent, "reduce_max", lambda value: seen.append(value) or max(value, -1.0 if value < 0 else 0.5)
    )
    assert rule.step(one.stages, one.batch, loss=one.loss).scalars["steps"] == 80
    assert len(seen) == 80  # 79 times whether to go on, once whether the energy rose
