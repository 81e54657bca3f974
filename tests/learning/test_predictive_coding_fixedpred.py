"""FixedPred: predictions and Jacobians of the forward pass, errors that relax to backprop's deltas."""

from __future__ import annotations

import math

import pytest
import torch
from pc_networks import CASES, backprop_grads, case, grads, relative
from torch import Tensor

from learning.chain import Chain
from learning.rules.pc.fixedpred import relax
from learning.rules.predictive_coding import PredictiveCoding


def exact(one) -> list[Tensor]:
    stages, (x, y), loss = one
    return backprop_grads(stages, loss(stages(x), y))


def found(one, **options) -> list[Tensor]:
    PredictiveCoding(**options).step(one.stages, one.batch, loss=one.loss)
    return grads(one.stages)


@pytest.mark.parametrize("name", CASES)
def test_fixedpred_at_rate_one_is_backprop_bit_for_bit(name):
    one = case(name)
    wanted, last = exact(one), len(one.stages) - 1
    assert relative(found(one, variant="fixedpred", inference_rate=1.0, steps=last), wanted) == 0.0
    literal, _ = relax(Chain(*one), rate=1.0, steps=last)
    assert relative(literal.gradients, wanted) < 1e-15
    late, _ = relax(Chain(*one), rate=1.0, steps=last + 3)
    assert relative(late.gradients, wanted) < 1e-15
    early, _ = relax(Chain(*one), rate=1.0, steps=last - 1)
    assert relative(early.gradients, wanted) > 1e-3
    with pytest.warns(RuntimeWarning, match="not converged"):
        short = found(one, variant="fixedpred", inference_rate=1.0, steps=last - 1)
    known = [torch.zeros_like(w) if g is None else g for g, w in zip(early.gradients, wanted, strict=True)]
    assert relative(short, known) < 1e-15


@pytest.mark.parametrize("wavefront", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_fixedpred_converges_to_backprop_and_says_where_it_has_not(name, wavefront):
    one = case(name)
    wanted = exact(one)
    options = {"variant": "fixedpred", "inference_rate": 0.1, "wavefront": wavefront}
    with pytest.warns(RuntimeWarning, match="not converged"):
        assert relative(found(one, steps=20, **options), wanted) > 0.04  # a common default
    assert relative(found(one, steps=400, **options), wanted) < 2e-12
    report = PredictiveCoding(steps=900, tolerance=1e-6, **options).step(one.stages, one.batch, loss=one.loss)
    assert report.scalars["stationarity"] <= 1e-6
    assert 100 < report.scalars["steps"] < 400


def test_fixedpred_errors_arrive_as_binomials_of_the_deltas():
    """Linear in the errors: after t steps stage L - k has P(at least k successes in t trials) of its delta."""
    stages, (x, y), loss = case("residual")
    hidden = [x]
    for stage in stages[:-1]:
        hidden.append(stage(hidden[-1]))
        hidden[-1].retain_grad()
    loss(stages[-1](hidden[-1]), y).backward()
    rate, steps = 0.3, 7
    _, errors = relax(Chain(stages, (x, y), loss), rate=rate, steps=steps)
    for k in range(1, len(stages)):
        share = sum(math.comb(steps, j) * rate**j * (1 - rate) ** (steps - j) for j in range(k, steps + 1))
        assert relative([errors[-k]], [share * hidden[-k].grad]) < 1e-12
