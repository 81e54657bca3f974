"""Errors far smaller than their states: float32 must settle as float64 does."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from learning import RULES
from learning.chain import Chain
from learning.rules.pc.deviations import Deviations
from learning.rules.pc.linear_settling import LinearSettling
from learning.rules.pc.settling import Settling
from learning.rules.pc.spc import settling as settling_of
from learning.rules.predictive_coding import PredictiveCoding


def chain(kind: str) -> list[nn.Module]:
    """Four hidden stages, so that at a precision of p the lowest error is p^3 times smaller than the highest."""
    torch.manual_seed(0)
    made: list[nn.Module] = [nn.Linear(20, 32)]
    for _ in range(3):
        if kind == "norm":
            made.append(nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32), nn.GELU()))
        else:
            made.append(nn.Sequential(nn.Linear(32, 32), nn.Tanh()))
    return [*made, nn.Linear(32, 5)]


def given(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16, 20, generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.randint(5, (16,), generator=generator)


def gradients(kind: str, dtype: torch.dtype, how: type[Settling], **options: Any) -> list[Tensor]:
    stages = [stage.to(dtype) for stage in chain(kind)]
    one = Chain(stages, given(dtype), F.cross_entropy)
    found = how(one, **{"rate": 0.9, "precision": 1e4, **options}).run(8)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, one.parameters, strict=True)]


def cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0))


@pytest.mark.parametrize("kind", ["norm", "tanh"])
def test_float32_learns_what_float64_learns(kind):
    exact = gradients(kind, torch.float64, Deviations)
    found = gradients(kind, torch.float32, Deviations)
    subtracted = gradients(kind, torch.float32, Settling)
    assert all(cosine(a, b) > 1 - 1e-5 for a, b in zip(exact, found, strict=True))
    assert all(abs(float(a.norm() / b.norm()) - 1) < 1e-3 for a, b in zip(exact, found, strict=True))
    assert cosine(exact[0], subtracted[0]) < 0.5  # what the states themselves leave of the lowest stage


def test_bfloat16_keeps_the_direction_of_every_stage():
    exact = gradients("norm", torch.float32, Deviations)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients("norm", torch.float32, Deviations)
        subtracted = gradients("norm", torch.float32, Settling)
    assert all(cosine(a, b) > 0.9 for a, b in zip(exact, found, strict=True))
    assert cosine(exact[0], subtracted[0]) < 0.5


@pytest.mark.parametrize("precision", [1.0, 3.0])
def test_larger_deviations_settle_by_the_plain_equations(precision):
    """In float64 nothing here is small enough to be magnified."""
    plain = gradients("norm", torch.float64, Settling, precision=precision, rate=0.1)
    found = gradients("norm", torch.float64, Deviations, precision=precision, rate=0.1)
    assert max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, plain, strict=True)) < 1e-9


def test_what_is_far_from_the_forward_pass_is_not_magnified():
    one = Chain(chain("tanh"), given(torch.float32), F.cross_entropy)
    found = Deviations(one, rate=0.3, precision=3.0)
    found.run(6)
    moved = list(zip(found.free, found.start, found.metric, found._scales, strict=True))
    small = [float(d.abs().max() * unit / x.abs().max()) < 1.15e-4 for d, x, unit, _ in moved[:-1]]
    assert {True, False} == set(small)
    assert [float(c / unit) > 1.0001 for _, _, unit, c in moved[:-1]] == small
    assert float(found._scales[-1]) == 1  # the loss is read at the true state
    assert all(torch.allclose(s, x + d * unit) for s, (d, x, unit, _) in zip(found.states, moved, strict=True))


def test_a_deep_chain_has_no_error_too_small_for_float32():
    """At the bottom of 60 stages the states' own errors are 8^59 times smaller than the gradient."""
    torch.manual_seed(0)
    stages: list[nn.Module] = [nn.Linear(20, 16)]
    stages += [nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16), nn.GELU()) for _ in range(59)]
    stages.append(nn.Linear(16, 5))
    x, y = given(torch.float32)
    F.cross_entropy(nn.Sequential(*stages)(x), y).backward()
    exact = [p.grad.clone() for p in stages[0].parameters()]
    rule = RULES.build("predictive-coding", variant="pn", nudge=0.01, steps=75, inference_rate=0.95, precision=1e4)
    rule.step(stages, (x, y), loss=F.cross_entropy)
    assert all(cosine(a, p.grad) > 0.99 for a, p in zip(exact, stages[0].parameters(), strict=True))


def test_the_curvature_at_high_precision_is_that_of_float64():
    def curvature(dtype: torch.dtype) -> float:
        stages = [stage.to(dtype) for stage in chain("norm")]
        return Deviations(Chain(stages, given(dtype), F.cross_entropy), rate=0.5, precision=300.0).curvature()

    assert curvature(torch.float32) == pytest.approx(curvature(torch.float64), rel=0.02)


def test_states_are_kept_as_deviations_where_they_would_lose_the_lowest_error():
    one = Chain(chain("norm"), given(torch.float32), F.cross_entropy)
    assert type(settling_of(PredictiveCoding(precision=10.0), one, 0.5)) is Settling
    assert type(settling_of(PredictiveCoding(precision=20.0), one, 0.5)) is Deviations
    with torch.autocast("cpu", torch.bfloat16):
        assert type(settling_of(PredictiveCoding(precision=3.0), one, 0.5)) is Deviations
    single = Chain([nn.Sequential(nn.Linear(20, 5), nn.Dropout())], given(torch.float32), F.cross_entropy)
    assert type(settling_of(PredictiveCoding(precision=1e9), single, 0.5)) is not Deviations
    one = Chain(chain("tanh"), given(torch.float32), F.cross_entropy)
    assert type(settling_of(PredictiveCoding(precision=10.0), one, 0.5)) is LinearSettling
    assert type(settling_of(PredictiveCoding(precision=20.0), one, 0.5)) is Deviations
    double = [copy.deepcopy(stage).double() for stage in one.stages]
    one = Chain(double, given(torch.float64), F.cross_entropy)
    assert type(settling_of(PredictiveCoding(precision=20.0), one, 0.5)) is LinearSettling


def test_local_states_at_high_precision_come_close_to_backprop():
    stages, batch = chain("norm"), given(torch.float32)
    F.cross_entropy(nn.Sequential(*stages)(batch[0]), batch[1]).backward()
    exact = [p.grad.clone() for stage in stages for p in stage.parameters()]
    rule = RULES.build("predictive-coding", variant="pn", nudge=0.03, steps=6, inference_rate=0.9, precision=1e6)
    assert rule.local
    assert rule.local_in_time
    rule.step(stages, batch, loss=F.cross_entropy)
    found = [p.grad for stage in stages for p in stage.parameters()]
    assert min(cosine(a, b) for a, b in zip(exact, found, strict=True)) > 0.998
