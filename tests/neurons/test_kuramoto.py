"""Kuramoto's model against scipy's integrator, closed forms and sums over pairs; the mixer against complex numbers."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from neurons import ATTENTIONS
from neurons.errors import UsageError
from neurons.oscillations.kuramoto import (
    KuramotoAttention,
    integrate,
    kuramoto_step,
    mean_field,
    velocity,
    velocity_reference,
)
from neurons.oscillations.rhythm import gamma_band
from neurons.specs import Context


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return 2 * math.pi * torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def order(phase: Tensor) -> float:
    return float(torch.hypot(*mean_field(phase.cos(), phase.sin())))


def by_pairs(phase: np.ndarray, omega: np.ndarray, coupling: float) -> np.ndarray:
    """Kuramoto 1975, as it stands."""
    return omega + coupling / len(phase) * np.sin(phase[None, :] - phase[:, None]).sum(1)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_order_parameter_form_is_the_sum_over_pairs(causal: bool, masked: bool) -> None:
    phase, omega, weights = uniform(2, 3, 17), normal(2, 3, 17), normal(2, 3, 17, seed=1)
    mask = uniform(2, 1, 17, seed=2) > 2 if masked else None
    results = []
    for form in (velocity, velocity_reference):
        at = phase.clone().requires_grad_()
        rate = form(at, omega, 1.7, mask=mask, causal=causal)
        results.append((rate.detach(), torch.autograd.grad((rate * weights).sum(), at)[0]))
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=0, atol=1e-13)


def test_velocity_is_kuramotos_formula() -> None:
    phase, omega = uniform(9), normal(9)
    expected = by_pairs(phase.numpy(), omega.numpy(), 1.7)
    np.testing.assert_allclose(velocity(phase, omega, 1.7).numpy(), expected, rtol=0, atol=1e-13)


def test_trajectory_is_scipys() -> None:
    phase, omega = uniform(12), normal(12)
    solved = solve_ivp(lambda _, at: by_pairs(at, omega.numpy(), 1.5), (0, 3), phase.numpy(), rtol=1e-11, atol=1e-12).y[
        :, -1
    ]
    np.testing.assert_allclose(
        integrate(phase, omega, coupling=1.5, dt=0.01, steps=300).numpy(), solved, rtol=0, atol=1e-7
    )
    coarse, fine = (
        np.abs(integrate(phase, omega, coupling=1.5, dt=3 / n, steps=n).numpy() - solved).max() for n in (15, 30)
    )
    assert 11 < coarse / fine < 24  # fourth order: 16


def test_two_oscillators_approach_as_the_closed_form_says() -> None:
    """delta' = -K sin delta, so tan(delta / 2) decays as e^{-K t}."""
    phase = torch.tensor([0.3, 2.9], dtype=torch.float64)
    end = integrate(phase, torch.zeros(2, dtype=torch.float64), coupling=2.0, dt=0.01, steps=150)
    assert math.tan(float(end[1] - end[0]) / 2) == pytest.approx(math.tan(1.3) * math.exp(-2.0 * 1.5), rel=1e-8)


def test_positive_coupling_attracts_and_the_mean_phase_only_turns() -> None:
    phase, omega = uniform(50), torch.full((50,), 3.0, dtype=torch.float64)
    assert order(phase) < 0.3
    together = integrate(phase, omega, coupling=1.0, dt=0.1, steps=400)
    assert order(together) == pytest.approx(1.0, abs=1e-9)
    # Pulls are antisymmetric: the mean phase turns at the mean frequency, whatever happens in between.
    assert float((together - phase).mean()) == pytest.approx(3.0 * 40, abs=1e-9)
    assert order(integrate(phase, omega, coupling=-1.0, dt=0.1, steps=400)) < 1e-3


@pytest.mark.parametrize(("coupling", "expected"), [(1.2, 0.0), (3.0, math.sqrt(1 / 3)), (6.0, math.sqrt(2 / 3))])
def test_lorentzian_frequencies_lock_above_twice_their_width(coupling: float, expected: float) -> None:
    """K_c = 2 gamma, R = sqrt(1 - K_c / K): Kuramoto 1975. Quantiles of the Lorentzian stand for its draws."""
    count = 1000
    ranks = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    omega = torch.tan(math.pi * (ranks - 0.5))
    phase = integrate(uniform(count), omega, coupling=coupling, dt=0.1, steps=200)
    seen = []
    for _ in range(20):
        phase = integrate(phase, omega, coupling=coupling, dt=0.1, steps=5)
        seen.append(order(phase))
    assert np.mean(seen) == pytest.approx(expected, abs=0.08 if expected == 0 else 0.015)


def test_a_masked_oscillator_pulls_nobody() -> None:
    phase, omega, mask = uniform(10), normal(10), torch.arange(10) < 7
    alone = integrate(phase[:7], omega[:7], coupling=2.0, dt=0.05, steps=40)
    among = integrate(phase, omega, coupling=2.0, dt=0.05, steps=40, mask=mask)
    torch.testing.assert_close(among[:7], alone, rtol=0, atol=1e-12)


def test_causal_oscillators_feel_only_what_came_before() -> None:
    phase, omega = uniform(10), normal(10)
    whole = kuramoto_step(phase, omega, coupling=2.0, dt=0.1, causal=True)
    torch.testing.assert_close(kuramoto_step(phase[:6], omega[:6], coupling=2.0, dt=0.1, causal=True), whole[:6])
    assert whole[0] == pytest.approx(float(phase[0] + 0.1 * omega[0]))  # alone, it only turns


def test_time_goes_forward() -> None:
    for wrong in ({"dt": 0.0, "steps": 3}, {"dt": 0.1, "steps": -1}):
        with pytest.raises(UsageError, match="forward in time"):
            integrate(uniform(3), uniform(3), coupling=1.0, **wrong)  # type: ignore[arg-type]


def mixer(width: int = 8, causal: bool = False, **options: object) -> KuramotoAttention:
    return ATTENTIONS.build("kuramoto", width=width, causal=causal, **{"heads": 2, **options})


def by_hand(layer: KuramotoAttention, x: Tensor) -> Tensor:
    """One sample (T, D) in complex numbers, token by token."""
    steps, size = x.shape[0], x.shape[1] // layer.heads
    out = torch.empty_like(x)
    hertz = [0.0] * layer.content_heads + list(gamma_band(layer.heads - layer.content_heads, layer.low, layer.high))
    for h in range(layer.heads):
        places = [h * size + 2 * p for p in range(size // 2)]
        w = [[complex(*x[t, c : c + 2].tolist()) for c in places] for t in range(steps)]
        z = [
            [
                layer.gain * one / math.sqrt(1 + layer.gain**2 * abs(one) ** 2)
                * cmath.exp(2j * math.pi * hertz[h] * layer.dt * t)
                for one in row
            ]
            for t, row in enumerate(w)
        ]  # fmt: skip
        start = [[cmath.phase(one) for one in row] for row in z]
        phase = [list(row) for row in start]
        for _ in range(layer.steps):
            points = [[abs(z[t][p]) * cmath.exp(1j * phase[t][p]) for p in range(len(places))] for t in range(steps)]
            for t in range(steps):
                heard = points[: t + 1] if layer.is_causal else points
                field = sum(map(sum, heard)) / (len(heard) * len(places))
                for p, point in enumerate(points[t]):
                    pull = abs(field) * math.sin(cmath.phase(field) - cmath.phase(point))
                    phase[t][p] += layer.coupling * abs(point) * pull
        for t in range(steps):
            for p, c in enumerate(places):
                turned = w[t][p] * cmath.exp(1j * (phase[t][p] - start[t][p]))
                out[t, c], out[t, c + 1] = turned.real, turned.imag
    return out


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("options", [{}, {"content_heads": 1, "coupling": 0.5, "steps": 7, "dt": 0.003, "gain": 1.0}])
def test_layer_is_the_formula(causal: bool, options: dict[str, object]) -> None:
    layer, x = mixer(causal=causal, **options), normal(11, 8)
    torch.testing.assert_close(layer(x[None], Context())[0], by_hand(layer, x), rtol=0, atol=1e-12)


def test_amplitudes_stay_and_phases_come_together() -> None:
    x = normal(3, 40, 8)
    shapes = [mixer(coupling=1.0, steps=steps, gain=100.0, content_heads=2) for steps in (1, 200)]
    contexts = [Context(observables={}) for _ in shapes]
    for layer, context in zip(shapes, contexts, strict=True):
        out = layer(x, context)
        radius = out.unflatten(-1, (-1, 2)).norm(dim=-1)
        torch.testing.assert_close(radius, x.unflatten(-1, (-1, 2)).norm(dim=-1))
    once, long = (context.observables["kuramoto.R"] for context in contexts)  # type: ignore[index]
    assert once.shape == (3, 2)
    assert (long > once).all()
    assert (long > 0.99).all()


def test_observed_order_counts_real_tokens_only() -> None:
    x, mask = normal(2, 9, 8), torch.arange(9) < torch.tensor([[9], [4]])
    padded, bare = Context(mask=mask, observables={}), Context(observables={})
    mixer()(x, padded)
    mixer()(x[1:, :4], bare)
    torch.testing.assert_close(padded.observables["kuramoto.R"][1:], bare.observables["kuramoto.R"])  # type: ignore[index]


def test_only_relative_position_counts() -> None:
    """Padding on the left shifts every clock by the same, and a common turn of all oscillators changes nothing."""
    x = normal(1, 12, 8)
    mask = torch.arange(12)[None] >= 5
    out = mixer(dt=0.004)(x, Context(mask=mask))
    torch.testing.assert_close(out[:, 5:], mixer(dt=0.004)(x[:, 5:], Context()), rtol=0, atol=1e-12)
    # without rhythm the order of the tokens is nothing to a full mean field, with it it is
    reverse = x.flip(1)
    for heads, same in ((2, True), (0, False)):
        layer = mixer(content_heads=heads)
        assert torch.allclose(layer(reverse, Context()).flip(1), layer(x, Context()), atol=1e-9) is same


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "width 8 does not split into 3 heads"),
        ({"coupling": 0.0}, "coupling"),
        ({"coupling": 2.0}, "coupling"),
        ({"steps": 0}, "one step or more"),
        ({"low": 70.0}, "60 Hz"),
        ({"content_heads": 3}, "content_heads"),
        ({"gain": 0.0}, "gain and dt"),
    ],
)
def test_wrong_options_are_usage_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        mixer(**options)
