"""How states settle: optimisers against torch's own, curvature against the Hessian, clamp, tolerance, spikes."""

from __future__ import annotations

import pytest
import torch
from pc_networks import TinyModel, backprop_grads, case, grads, relative, tiny_batch
from torch import Tensor
from torch.autograd.functional import hessian
from torch.nn.attention import SDPBackend, sdpa_kernel

from learning.chain import Chain
from learning.rules.pc.epc import ErrorSettling
from learning.rules.pc.settling import Settling
from learning.rules.predictive_coding import PredictiveCoding
from neurons.errors import RunError, UsageError


def forward(one) -> list[Tensor]:
    states = [one.batch[0]]
    for stage in one.stages[:-1]:
        states.append(stage(states[-1]).detach())
    return states


def energy(one, states: list[Tensor], precision: float = 1.0, nudge: float = 1.0) -> Tensor:
    """Of all states at once, by the formula."""
    stages, (x, y), loss = one
    below, last = [x, *states], len(stages) - 1
    total = nudge * len(x) * loss(stages[-1](below[-1]), y)
    for l in range(last):
        total = total + 0.5 * precision ** (last - 1 - l) * (below[l + 1] - stages[l](below[l])).square().sum()
    return total


OPTIMISERS = {
    "sgd": lambda states: torch.optim.SGD(states, lr=0.05),
    "momentum": lambda states: torch.optim.SGD(states, lr=0.05, momentum=0.7),
    "adam": lambda states: torch.optim.Adam(states, lr=0.05),
}


@pytest.mark.parametrize("wavefront", [True, False])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("name", ["mlp-entropy", "conv", "dendritic", "gamma"])
def test_states_and_gradients_are_those_of_torchs_optimiser_on_the_energy(name, optimiser, wavefront):
    one = case(name)
    states = [s.clone().requires_grad_() for s in forward(one)[1:]]
    stepper = OPTIMISERS[optimiser](states)
    for _ in range(7):
        stepper.zero_grad()
        energy(one, states).backward()
        stepper.step()
    wanted = backprop_grads(one.stages, energy(one, [s.detach() for s in states]) / 6)
    rule = PredictiveCoding(
        steps=7,
        inference_rate=0.05,
        state_optimizer=optimiser,
        momentum=0.7 if optimiser == "momentum" else None,
        wavefront=wavefront,
    )
    rule.step(one.stages, one.batch, loss=one.loss)
    assert relative(grads(one.stages), wanted) < (1e-10 if optimiser == "adam" else 1e-13)


def test_momentum_is_nine_tenths_unless_said():
    one = case("mlp-entropy")
    found = []
    for momentum in (None, 0.9, 0.5):
        rule = PredictiveCoding(state_optimizer="momentum", momentum=momentum, steps=5)
        rule.step(one.stages, one.batch, loss=one.loss)
        found.append(grads(one.stages))
    assert relative(found[0], found[1]) == 0.0
    assert relative(found[0], found[2]) > 1e-3


@pytest.mark.parametrize("precision", [1.0, 4.0])
@pytest.mark.parametrize("name", ["mlp-squared", "mlp-entropy", "residual", "smooth-attention", "smooth-dendritic"])
def test_curvature_is_the_largest_eigenvalue_of_the_hessian(name, precision):
    one = case(name)
    one = one._replace(batch=(one.batch[0][:2], one.batch[1][:2]))
    states = forward(one)[1:]
    sizes, shapes = [s.numel() for s in states], [s.shape for s in states]

    def flat(point: Tensor) -> Tensor:
        return energy(one, [p.reshape(s) for p, s in zip(point.split(sizes), shapes, strict=True)], precision)

    with sdpa_kernel(SDPBackend.MATH):  # the only attention with a second derivative
        H = hessian(flat, torch.cat([s.flatten() for s in states]))
    weights = [precision ** (len(states) - 1 - l) for l in range(len(states))]
    root = torch.cat([torch.full((n,), w**-0.5).double() for n, w in zip(sizes, weights, strict=True)])
    wanted = float(torch.linalg.eigvalsh(root[:, None] * H * root)[-1])
    kept = [p.detach().clone() for p in one.stages.parameters()]
    found = Settling(Chain(*one), rate=0.1, precision=precision).curvature()
    assert found == pytest.approx(wanted, rel=0.03)
    assert found < wanted * (1 + 1e-4)  # from below
    assert all(torch.equal(p, k) and p.requires_grad for p, k in zip(one.stages.parameters(), kept, strict=True))


def test_curvature_of_epc_is_that_in_the_errors():
    one = case("mlp-squared")
    errors = [torch.zeros_like(s) for s in forward(one)[1:]]
    sizes, shapes = [e.numel() for e in errors], [e.shape for e in errors]

    def flat(point: Tensor) -> Tensor:
        x, total = one.batch[0], point.new_zeros(())
        for stage, part, shape in zip(one.stages[:-1], point.split(sizes), shapes, strict=True):
            x = stage(x) + part.reshape(shape)
            total = total + 0.5 * part.square().sum()
        return total + len(x) * one.loss(one.stages[-1](x), one.batch[1])

    wanted = float(torch.linalg.eigvalsh(hessian(flat, torch.cat([e.flatten() for e in errors])))[-1])
    assert ErrorSettling(Chain(*one), rate=0.1).curvature() == pytest.approx(wanted, rel=0.04)


def test_clamp_keeps_a_wild_rate_stable():
    one = case("residual")
    wild = {"inference_rate": 50.0, "steps": 60}
    curvature = Settling(Chain(*one), rate=1.0).curvature()
    report = PredictiveCoding(clamp=1.0, **wild).step(one.stages, one.batch, loss=one.loss)
    assert report.scalars["lambda_max"] == pytest.approx(curvature, rel=1e-6)
    assert report.scalars["rate"] == pytest.approx(1.0 / curvature, rel=1e-6)
    assert report.scalars["retries"] == 0
    clamped = grads(one.stages)
    plain = PredictiveCoding(inference_rate=report.scalars["rate"], steps=60)
    plain.step(one.stages, one.batch, loss=one.loss)
    assert relative(clamped, grads(one.stages)) == 0.0
    with pytest.raises(RunError, match="diverges"):
        PredictiveCoding(inference_rate=50.0 * 64, steps=60).step(one.stages, one.batch, loss=one.loss)
    low = PredictiveCoding(clamp=1.0, inference_rate=0.01).step(one.stages, one.batch, loss=one.loss)
    assert low.scalars["rate"] == 0.01


def test_two_over_lambda_is_the_limit_of_stability():
    """Near its forward pass mlp-squared is almost quadratic: above 2 / lambda_max it rises, below it falls."""
    one = case("mlp-squared")
    loss = one.loss
    one = one._replace(loss=lambda p, y: 1e-3 * loss(p, y))
    limit = 2.0 / Settling(Chain(*one), rate=1.0).curvature()
    left = []
    for share in (0.95, 1.05):
        settling = Settling(Chain(*one), rate=share * limit)
        settling.run(300)
        left.append(settling.stationarity())
    assert left[0] < 1e-3
    assert left[1] > 10


def test_the_curvature_is_kept_for_fifty_batches_and_in_the_checkpoint():
    torch.manual_seed(0)
    model = TinyModel().double()
    rule = PredictiveCoding(clamp=1.0, steps=2)
    seen = [rule.step(model, tiny_batch()).scalars["lambda_max"] for _ in range(3)]
    assert seen[0] == seen[1] == seen[2]
    other = PredictiveCoding(clamp=1.0, steps=2)
    other.load_state_dict(rule.state_dict())
    assert other.step(model, tiny_batch()).scalars["lambda_max"] == seen[0]
    fresh = PredictiveCoding(clamp=1.0, steps=2).step(model, tiny_batch()).scalars["lambda_max"]
    assert fresh != seen[0]
    last = [rule.step(model, tiny_batch()).scalars["lambda_max"] for _ in range(48)]
    assert last[46] == seen[0] != last[47]
    assert PredictiveCoding().state_dict() == {}


@pytest.mark.filterwarnings("ignore:fixedpred")
@pytest.mark.parametrize("variant", ["spc", "epc", "pcalm", "pn", "ipc", "fixedpred"])
def test_tolerance_ends_settling_as_soon_as_it_is_reached(variant):
    one = case("mlp-entropy")
    rule = PredictiveCoding(variant=variant, steps=2000, tolerance=0.02)
    report = rule.step(one.stages, one.batch, loss=one.loss, update=lambda report: None)
    steps = int(report.scalars["steps"])
    assert 3 < steps < 600
    assert report.scalars["stationarity"] <= 0.02
    before = PredictiveCoding(variant=variant, steps=steps - 1, tolerance=1e-9)
    report = before.step(one.stages, one.batch, loss=one.loss, update=lambda report: None)
    assert report.scalars["stationarity"] > 0.02
    assert report.scalars["steps"] == steps - 1


def test_spiking_precision_carries_the_first_wave_down_undiminished():
    stages, (x, y), loss = case("residual")
    hidden = [x]
    for stage in stages[:-1]:
        hidden.append(stage(hidden[-1]))
        hidden[-1].retain_grad()
    (loss(stages[-1](hidden[-1]), y) * len(x)).backward()
    for k in range(1, len(stages)):
        settling = Settling(Chain(stages, (x, y), loss), rate=0.3, spiking=True)
        settling.run(k)
        state = len(stages) - k - 1  # s_{L-k}, from zero
        moved = settling.states[state] - hidden[state + 1].detach()
        assert relative([moved], [-0.3 * hidden[state + 1].grad]) < 1e-12
    full = Settling(Chain(stages, (x, y), loss), rate=0.3, spiking=True, wavefront=False)
    skip = Settling(Chain(stages, (x, y), loss), rate=0.3, spiking=True)
    assert relative(full.run(12), skip.run(12)) < 1e-14


CONTRADICTIONS = [
    ({"nudge": 0.1}, "nudge is about pn, nn, cn, epc, and variant is 'spc'"),
    ({"penalty": 2.0}, "penalty is about pcalm"),
    ({"multiplier_rate": 2.0, "variant": "epc"}, "multiplier_rate is about pcalm"),
    ({"momentum": 0.5}, "momentum is about state_optimizer='momentum'"),
    ({"momentum": 1.0, "state_optimizer": "momentum"}, "below 1"),
    ({"clamp": 1.0, "state_optimizer": "adam"}, "clamp bounds"),
    ({"clamp": 0.0}, "clamp > 0"),
    ({"variant": "pn", "nudge": -0.1}, "nudge > 0"),
    ({"tolerance": -0.1}, "tolerance"),
    ({"precision_schedule": "spiking", "variant": "epc"}, "spiking"),
    ({"precision_schedule": "spiking", "state_optimizer": "adam"}, "needs state_optimizer='sgd'"),
    ({"precision_schedule": "spikin"}, "Did you mean 'spiking'"),
    ({"state_optimizer": "adagrad"}, "sgd, momentum, adam"),
    ({"parametrisation": "mup"}, "Did you mean 'mupc'"),
    ({"variant": "fixedpred", "precision": 2.0}, "have no part"),
    ({"variant": "fixedpred", "inference_rate": 2.0}, "diverges"),
]


@pytest.mark.parametrize(("options", "told"), CONTRADICTIONS)
def test_options_that_contradict_each_other_are_told(options, told):
    with pytest.raises(UsageError, match=told):
        PredictiveCoding(**options)


def test_the_control_leaves_out_what_only_its_variant_knows():
    assert PredictiveCoding(variant="cn", nudge=0.5).control() == {"variant": "zil", "nudge": None}
    assert PredictiveCoding(variant="pcalm", penalty=2.0).control() == {"variant": "zil", "penalty": None}
    assert PredictiveCoding(variant="zil").control() is None
    options = {"variant": "pcalm", "penalty": 2.0, "state_optimizer": "momentum", "momentum": 0.5, "clamp": 1.0}
    rule = PredictiveCoding(**options)
    assert PredictiveCoding(**(options | rule.control())).variant == "zil"
