"""sPC against independent references: explicit Jacobians, closed forms, counted passes."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from pc_networks import CASES, TinyModel, backprop_grads, case, grads, relative, squared, tiny_batch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn import functional as F

from learning.chain import Chain
from learning.rules.pc.settling import Settling
from learning.rules.predictive_coding import PredictiveCoding


def naive(one, steps: int, rate: float) -> tuple[list[Tensor], list[Tensor]]:
    """Each sample alone, each stage's full Jacobian, states one by one; then the mean weight gradient."""
    stages, (x, y), loss = one
    stages = list(stages)
    totals = [torch.zeros_like(p) for stage in stages for p in stage.parameters()]
    settled = []
    for sample, target in zip(x.split(1), y.split(1), strict=True):
        states = [sample]
        for stage in stages[:-1]:
            states.append(stage(states[-1]).detach())
        top = jacrev(lambda s: loss(stages[-1](s), target))  # noqa: B023
        for _ in range(steps):
            errors = [None, *[s - f(b).detach() for s, f, b in zip(states[1:], stages[:-1], states, strict=False)]]
            moves = []
            for l in range(1, len(states)):
                if l == len(states) - 1:
                    down = top(states[l])
                else:
                    jacobian = jacrev(stages[l])(states[l]).reshape(errors[l + 1].numel(), -1)
                    down = -(errors[l + 1].reshape(1, -1) @ jacobian).reshape(states[l].shape)
                moves.append(errors[l] + down)
            states = [sample, *[s - rate * m for s, m in zip(states[1:], moves, strict=True)]]
        gradients: list[Tensor] = []
        for l, stage in enumerate(stages):
            theta = dict(stage.named_parameters())

            def energy(theta, stage=stage, l=l, states=states, target=target):
                prediction = functional_call(stage, theta, (states[l],))
                if l == len(stages) - 1:
                    return loss(prediction, target)
                return 0.5 * (states[l + 1] - prediction).square().sum()

            gradients += jacrev(energy)(theta).values()
        totals = [a + g / len(x) for a, g in zip(totals, gradients, strict=True)]
        settled.append(states[1:])
    return [torch.cat(parts) for parts in zip(*settled, strict=True)], totals


@pytest.mark.parametrize("wavefront", [True, False])
@pytest.mark.parametrize(
    ("name", "steps"), [("mlp-squared", 1), ("mlp-entropy", 2), ("mlp-entropy", 9), ("conv", 4), ("residual", 7)]
)
def test_states_and_gradients_equal_the_naive_ones(name, steps, wavefront):
    one = case(name)
    states, wanted = naive(one, steps, 0.2)
    settling = Settling(Chain(*one), rate=0.2, wavefront=wavefront)
    settling.run(steps)
    assert relative(settling.states, states) < 1e-12
    rule = PredictiveCoding(steps=steps, inference_rate=0.2, wavefront=wavefront)
    rule.step(one.stages, one.batch, loss=one.loss)
    assert relative(grads(one.stages), [g.detach() for g in wanted]) < 1e-12


@pytest.mark.parametrize("steps", [1, 3, 8])
@pytest.mark.parametrize("name", CASES)
def test_wavefront_skipping_is_exact(name, steps):
    one = case(name)
    found = []
    for wavefront in (True, False):
        report = PredictiveCoding(steps=steps, wavefront=wavefront).step(one.stages, one.batch, loss=one.loss)
        found.append((grads(one.stages), report))
    assert relative(found[0][0], found[1][0]) < 1e-14
    assert found[0][1].passes < found[1][1].passes
    assert found[0][1].scalars == pytest.approx(found[1][1].scalars, rel=1e-12)


def test_first_moves_are_scaled_deltas_and_the_rest_stays_put():
    stages, (x, y), loss = case("residual")
    hidden = [x]
    for stage in stages[:-1]:
        hidden.append(stage(hidden[-1]))
        hidden[-1].retain_grad()
    (loss(stages[-1](hidden[-1]), y) * len(x)).backward()
    rate = 0.3
    for k in range(1, len(stages)):
        settling = Settling(Chain(stages, (x, y), loss), rate=rate)
        settling.run(k)
        state = len(stages) - k - 1  # s_{L-k}, from zero
        first_move = settling.states[state] - hidden[state + 1].detach()
        delta = hidden[state + 1].grad
        assert relative([first_move], [-(rate**k) * delta]) < 1e-12
        for below in range(state):
            assert torch.equal(settling.states[below], hidden[below + 1])


def test_linear_equilibrium_energy_has_its_closed_form():
    torch.manual_seed(1)
    sizes = [4, 6, 5, 7, 3]
    stages = nn.Sequential(*[nn.Linear(a, b, bias=False) for a, b in pairwise(sizes)]).double()
    x, y = torch.randn(8, 4).double(), torch.randn(8, 3).double()
    report = PredictiveCoding(steps=600, inference_rate=0.3).step(stages, (x, y), loss=squared)
    S, P = torch.eye(3).double(), torch.eye(3).double()
    for stage in reversed(list(stages)[1:]):
        P = P @ stage.weight.detach()
        S = S + P @ P.T
    r = y - stages(x).detach()
    wanted = 0.5 * (r * torch.linalg.solve(S, r.T).T).sum() / 8
    assert report.scalars["energy"] == pytest.approx(float(wanted), rel=1e-9)
    assert report.scalars["stationarity"] < 1e-9
    assert report.scalars["energy_start"] == pytest.approx(float(0.5 * r.square().sum() / 8), rel=1e-12)
    parts = sum(report.scalars[f"energy_{l}"] for l in (1, 2, 3))
    assert 0 < parts < report.scalars["energy"]


def test_stationarity_is_one_after_one_step_and_falls():
    one = case("mlp-entropy")
    values = [
        PredictiveCoding(steps=t).step(one.stages, one.batch, loss=one.loss).scalars["stationarity"]
        for t in (1, 20, 100, 400)
    ]
    assert values[0] == pytest.approx(1.0)
    assert values == sorted(values, reverse=True)
    assert values[-1] < 1e-5


def test_equilibrium_is_not_backprop():
    stages, (x, y), loss = case("mlp-squared")
    exact = torch.cat([g.flatten() for g in backprop_grads(stages, loss(stages(x), 5 * y))])
    report = PredictiveCoding(steps=400).step(stages, (x, 5 * y), loss=loss)
    found = torch.cat([g.flatten() for g in grads(stages)])
    assert report.scalars["stationarity"] < 1e-6
    assert 0.0 < float(F.cosine_similarity(found, exact, dim=0)) < 0.9


@pytest.mark.parametrize("name", CASES)
def test_a_sample_settles_in_a_batch_as_it_does_alone(name):
    stages, (x, y), loss = case(name)
    rule = PredictiveCoding(steps=10)
    rule.step(stages, (x, y), loss=loss)
    together = grads(stages)
    alone = [torch.zeros_like(g) for g in together]
    for i in range(len(x)):
        rule.step(stages, (x[i : i + 1], y[i : i + 1]), loss=loss)
        alone = [a + g / len(x) for a, g in zip(alone, grads(stages), strict=True)]
    assert relative(together, alone) < 1e-12


def test_it_settles_on_our_model():
    torch.manual_seed(0)
    model, batch = TinyModel().double(), tiny_batch()
    report = PredictiveCoding(steps=100, inference_rate=0.3).step(model, batch)
    assert report.scalars["stationarity"] < 0.05
    assert report.scalars["energy"] < report.scalars["energy_start"]
    assert float(report.loss.objective) == pytest.approx(float(model.loss(batch).objective.detach()))
    assert report.loss.count == 5
    energies = {"energy", "energy_start", "energy_1", "energy_2", "energy_3"}
    assert report.scalars.keys() == {*energies, "stationarity", "retries"}


def test_precision_rescales_the_states_of_a_chain():
    """E with precisions pi_l is the usual E of a chain whose states are sqrt(pi_l) s_l: same gradients, same rate."""
    torch.manual_seed(0)
    first, second, third = (nn.Linear(4, 4).double() for _ in range(3))
    x, y, rho = torch.randn(6, 4).double(), torch.randn(6, 4).double(), 9.0
    loss = nn.functional.mse_loss

    class Scaled(nn.Module):
        """s -> up * f(s / down)."""

        def __init__(self, inner, down, up):
            super().__init__()
            self.inner, self.down, self.up = inner, down, up

        def forward(self, s):
            return self.up * self.inner(s / self.down)

    def f(linear):
        return nn.Sequential(linear, nn.Tanh())

    plain = [f(first), f(second), third]
    scaled = [Scaled(plain[0], 1, rho**0.5), Scaled(plain[1], rho**0.5, 1), third]
    PredictiveCoding(precision=rho, steps=7, inference_rate=0.2).step(plain, (x, y), loss=loss)
    found = grads(nn.ModuleList(plain))
    # in the scaled chain one rate for all states is rate / pi_l in the states of the plain one
    PredictiveCoding(steps=7, inference_rate=0.2).step(scaled, (x, y), loss=loss)
    assert relative(found, grads(nn.ModuleList(plain))) < 1e-12


def test_batched_jacobians_agree_with_the_engine():
    """dE/ds from block-diagonal Jacobians of the whole batch equals what one settling step moves."""
    stages, (x, y), loss = case("mlp-entropy")
    settling = Settling(Chain(stages, (x, y), loss), rate=0.1)
    settling.run(3)
    s, direction = settling.states, settling.direction
    previous = [a - 0.1 * d for a, d in zip(s, direction, strict=True)]
    jacobian = vmap(jacrev(stages[1]))(previous[0])
    error0, error1 = previous[0] - stages[0](x), previous[1] - stages[1](previous[0])
    wanted = -(error0 - torch.einsum("boi,bo->bi", jacobian, error1))
    assert relative([direction[0]], [wanted.detach()]) < 1e-12
