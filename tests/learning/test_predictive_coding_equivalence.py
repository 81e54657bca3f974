"""The exact equivalences between variants of predictive coding, and with backprop, on every kind of stage."""

from __future__ import annotations

import pytest
import torch
from pc_networks import CASES, backprop_grads, case, grads, relative, squared
from torch import Tensor, nn
from torch.nn import functional as F

from learning.chain import Chain
from learning.rules.pc.epc import ErrorSettling
from learning.rules.pc.settling import Settling
from learning.rules.pc.state_optimizers import Momentum
from learning.rules.predictive_coding import PredictiveCoding
from learning.rules.probe import gradient_cosine

SMOOTH = ["mlp-squared", "mlp-entropy", "smooth-conv", "smooth-attention", "residual", "smooth-dendritic", "gamma"]


def exact(one) -> list[Tensor]:
    stages, (x, y), loss = one
    return backprop_grads(stages, loss(stages(x), y))


def found(one, **options) -> list[Tensor]:
    PredictiveCoding(**options).step(one.stages, one.batch, loss=one.loss)
    return grads(one.stages)


def gentle(name: str, share: float = 0.1):
    """The case with a weak loss, so that its states have one equilibrium and settle there in a few hundred steps; and
    the precision at which they do."""
    one = case(name)
    loss = one.loss
    precision = 1.0 if name.startswith("mlp") else 3.0 if name == "residual" else 16.0
    return one._replace(loss=lambda p, y: share * loss(p, y)), precision


def settled(one, precision: float, steps: int = 450) -> tuple[Settling, list[Tensor]]:
    rate = 1.0 / Settling(Chain(*one), rate=1.0, precision=precision).curvature()
    settling = Settling(Chain(*one), rate=rate, precision=precision, optimizer=Momentum(rate, 0.7), tolerance=1e-14)
    return settling, settling.run(steps)


@pytest.mark.parametrize("name", SMOOTH)
def test_epc_and_spc_have_one_equilibrium(name):
    one, precision = gentle(name)
    states, spc = settled(one, precision)
    rate = 1.0 / ErrorSettling(Chain(*one), rate=1.0, precision=precision).curvature()
    errors = ErrorSettling(Chain(*one), rate=rate, precision=precision, tolerance=1e-14)
    epc = errors.run(300)
    assert states.stationarity() < 1e-11
    assert errors.stationarity() < 1e-13
    x, followed = one.batch[0], []
    for stage, error in zip(one.stages[:-1], errors.free, strict=True):
        x = (stage(x) + error).detach()
        followed.append(x)
    assert relative(followed, states.states) < 5e-15
    assert relative(epc, spc) < 1e-11
    moved = [(s - p).detach() for s, p in zip(states.states, states.predictions, strict=True)]
    assert relative(moved, [torch.zeros_like(m) + 1.0 for m in moved]) > 0.5  # they have left the forward pass
    assert max(float(m.abs().max()) for m in moved) > 1e-4


@pytest.mark.parametrize("name", CASES)
def test_first_block_of_one_epc_step_is_backprop_times_the_rate(name):
    one = case(name)
    first = len(list(one.stages[0].parameters()))
    wanted = [0.1 * gradient for gradient in exact(one)[:first]]
    assert relative(found(one, variant="epc", steps=1, inference_rate=0.1)[:first], wanted) < 1e-14


@pytest.mark.parametrize("name", SMOOTH)
def test_nudging_tends_to_backprop_first_order_one_sided_second_order_centred(name):
    one, precision = gentle(name, share=1.0)
    wanted = exact(one)
    options = {"precision": precision, "state_optimizer": "momentum", "momentum": 0.7, "clamp": 1.0}
    options |= {"inference_rate": 1.0, "steps": 300, "tolerance": 1e-8}
    off = {}
    for beta in (1e-3, 1e-2):
        positive, negative = (found(one, variant=variant, nudge=beta, **options) for variant in ("pn", "nn"))
        off["pn", beta], off["nn", beta] = relative(positive, wanted), relative(negative, wanted)
        off["cn", beta] = relative([(a + b) / 2 for a, b in zip(positive, negative, strict=True)], wanted)
    for variant in ("pn", "nn"):
        assert off[variant, 1e-3] < 5e-3
        assert 8 < off[variant, 1e-2] / off[variant, 1e-3] < 12  # O(beta)
    assert off["cn", 1e-3] < 1e-5
    assert 60 < off["cn", 1e-2] / off["cn", 1e-3] < 140  # O(beta^2)


def test_centred_nudging_is_the_mean_of_both_sides():
    one = case("conv")
    sides = [found(one, variant=variant, nudge=0.5) for variant in ("pn", "nn")]
    mean = [(a + b) / 2 for a, b in zip(*sides, strict=True)]
    assert relative(found(one, variant="cn", nudge=0.5), mean) < 1e-15
    assert relative(*sides) > 1e-2
    assert relative(found(one, variant="cn"), found(one, variant="cn", nudge=0.1)) == 0.0


@pytest.mark.parametrize("name", SMOOTH)
def test_converged_pcalm_is_backprop(name):
    one, precision = gentle(name, share=1.0)
    wanted = exact(one)
    options = {"variant": "pcalm", "precision": precision, "clamp": 1.0, "inference_rate": 0.5}
    assert relative(found(one, steps=1200, tolerance=1e-13, **options), wanted) < 2e-11
    assert relative(found(one, steps=10, **options), wanted) > 1e-3


def test_converged_pcalm_is_backprop_whatever_the_penalty():
    one = case("mlp-entropy")
    wanted = exact(one)
    for penalty, ascent in ((0.5, 0.5), (4.0, 1.0)):
        rule = {"variant": "pcalm", "inference_rate": 0.3, "steps": 1500, "penalty": penalty}
        assert relative(found(one, multiplier_rate=ascent, **rule), wanted) < 1e-14
    early = [found(one, variant="pcalm", steps=9, penalty=penalty) for penalty in (1.0, 4.0)]
    assert relative(early[0], early[1]) > 1e-2


@pytest.mark.parametrize("variant", ["spc", "epc"])
def test_linear_equilibrium_energy_has_its_closed_form(variant):
    torch.manual_seed(1)
    stages = nn.Sequential(*[nn.Linear(a, b, bias=False) for a, b in ((4, 6), (6, 5), (5, 7), (7, 3))]).double()
    x, y = torch.randn(8, 4).double(), torch.randn(8, 3).double()
    rule = PredictiveCoding(variant=variant, steps=900, inference_rate=0.3)
    energy = rule.step(stages, (x, y), loss=squared).scalars["energy"]
    S, P = torch.eye(3).double(), torch.eye(3).double()
    for stage in reversed(list(stages)[1:]):
        P = P @ stage.weight.detach()
        S = S + P @ P.T
    r = y - stages(x).detach()
    assert energy == pytest.approx(float(0.5 * (r * torch.linalg.solve(S, r.T).T).sum() / 8), rel=1e-14)


def test_depth_is_the_problem():
    """21 layers in float32, T = 100: what first moves s_1 is lost in rounding; as errors it is not."""
    torch.manual_seed(0)
    hidden = [nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(19)]
    stages = nn.Sequential(nn.Sequential(nn.Linear(10, 64), nn.Tanh()), *hidden, nn.Linear(64, 4))
    batch = torch.randn(16, 10), torch.randint(0, 4, (16,))
    wanted = torch.autograd.grad(F.cross_entropy(stages(batch[0]), batch[1]), [stages[0][0].weight])[0].norm()
    share = {}
    for variant in ("spc", "epc"):
        PredictiveCoding(variant=variant, steps=100).step(stages, batch, loss=F.cross_entropy)
        share[variant] = float(stages[0][0].weight.grad.norm() / wanted)
    assert share["spc"] == 0.0
    assert 0.5 < share["epc"] < 1.0


def test_multipliers_carry_credit_through_depth():
    """32 layers that keep the variance, T = 2 L, one rate: cosine to backprop."""
    torch.manual_seed(0)
    hidden = [nn.Sequential(nn.Linear(32, 32), nn.Tanh()) for _ in range(30)]
    for stage in hidden:
        nn.init.orthogonal_(stage[0].weight, 1.1)
    stages = nn.Sequential(nn.Sequential(nn.Linear(10, 32), nn.Tanh()), *hidden, nn.Linear(32, 4))
    batch = torch.randn(16, 10), torch.randint(0, 4, (16,))
    cosine = {
        variant: gradient_cosine(PredictiveCoding(variant=variant, steps=64), stages, batch, F.cross_entropy)["cosine"]
        for variant in ("pcalm", "spc", "epc")
    }
    assert cosine["pcalm"] > 0.7
    assert max(cosine["spc"], cosine["epc"]) < 0.5
