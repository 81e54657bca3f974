"""Waves on a chain against the theory of FHN fronts; Kaufmann attention against plain attention and an ODE solver."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn
from torch.nn import functional as F

from neurons.errors import UsageError
from neurons.manifold.fitzhugh_nagumo import rest_state
from neurons.manifold.kaufmann import KaufmannAttention, reaction_diffusion
from neurons.specs import Context


def neighbours(u: Tensor) -> Tensor:
    padded = torch.cat([u[:1], u, u[-1:]])
    return (padded[:-2] + padded[2:]) / 2


def travel(diffusion: float, tau: float, *, sites: int = 200, dt: float = 0.012) -> tuple[float, Tensor]:
    """Speed of the wave between a third and two thirds of the chain, sites per unit of time, and u at the end."""
    rest = rest_state()
    u, w = (torch.full((sites,), value, dtype=torch.float64) for value in rest)
    u[:15] = 2.0
    constants = [torch.tensor(value, dtype=torch.float64) for value in (diffusion, dt, 0.0)]
    passed, crossing = {}, (sites // 3, 2 * sites // 3)
    for step in range(2000):
        before = u
        u, w = reaction_diffusion(
            u, w, constants[2], neighbours, diffusion=constants[0], dt=constants[1], steps=4, tau=tau
        )
        for site in crossing:
            if site not in passed and u[site] > 0:
                part = float(-before[site] / (u[site] - before[site]))
                passed[site] = (step + part) * 4 * dt
        if len(passed) == 2:
            break
    return (crossing[1] - crossing[0]) / (passed[crossing[1]] - passed[crossing[0]]), u


def theory(diffusion: float) -> float:
    w = rest_state()[1]
    low, threshold, high = np.sort(np.roots([-1 / 3, 0, 1, -w]).real)
    return math.sqrt(diffusion / 12) * (low + high - 2 * threshold)


def test_a_front_moves_at_nagumos_speed() -> None:
    speed, _ = travel(30.0, 1e9)
    assert abs(speed / theory(30.0) - 1) < 0.01


def test_a_pulse_moves_nearly_as_fast_and_leaves_rest_behind() -> None:
    speed, u = travel(8.0, 25.0, sites=300, dt=0.04)
    assert 0.8 < speed / theory(8.0) < 1.0  # recovery slows a pulse below the front
    assert u.max() > 1.0
    assert (u[:10] < 0).all()  # its tail has recovered
    slow, _ = travel(8.0, 200.0, sites=200, dt=0.04)
    assert speed < slow < theory(8.0) * 1.01  # and less so the slower it is


def test_speed_grows_with_the_root_of_diffusion() -> None:
    speeds = [travel(d, 1e9, sites=150, dt=0.02)[0] for d in (10.0, 20.0)]
    assert abs(speeds[1] / speeds[0] / math.sqrt(2) - 1) < 0.01


def build(gate: float = 0.1, **options: object) -> KaufmannAttention:
    torch.manual_seed(0)
    attention = KaufmannAttention(**({"width": 16, "causal": True, "heads": 2} | options))  # type: ignore[arg-type]
    nn.init.constant_(attention.gate, gate)
    if attention.topology is not None:
        nn.init.constant_(attention.topology.gate, gate)
    return attention


def hidden(steps: int = 12) -> Tensor:
    return torch.randn(2, steps, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("support", ["all", "knot"])
def test_closed_gates_are_plain_attention(support: str) -> None:
    attention, x = build(0.0, support=support), hidden()
    q, k, v = attention.projections.split(x)
    wanted = attention.projections.join(F.scaled_dot_product_attention(q, k, v, is_causal=True))
    torch.testing.assert_close(attention(x, Context()), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("support", ["all", "knot"])
@pytest.mark.parametrize("padded", [False, True])
def test_every_parameter_learns_and_the_gates_are_felt(support: str, padded: bool) -> None:
    attention, x = build(support=support), hidden()
    context = Context(mask=torch.arange(12) < torch.tensor([[12], [5]]) if padded else None)
    out = attention(x, context)
    assert (out - build(0.0, support=support)(x, Context(mask=context.mask))).abs().max() > 1e-4
    out.square().sum().backward()
    assert [name for name, p in attention.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_both_supports_agree_where_the_knot_gate_is_closed_and_wide() -> None:
    outs = []
    for support in ("all", "knot"):
        attention = build(support=support)
        if attention.topology is not None:
            nn.init.zeros_(attention.topology.gate)
        for source in (attention.projections, attention.landscape):
            torch.manual_seed(1)
            for parameter in source.parameters():
                nn.init.normal_(parameter, std=0.3)
        outs.append(attention(hidden(), Context()))
    torch.testing.assert_close(*outs, rtol=0, atol=1e-5)


def test_cells_react_and_diffuse_as_the_equation_says() -> None:
    attention = build(support="all", substeps=160)
    nn.init.constant_(attention.dt.theta, math.log(1 / 3))  # dt = 1 / 8
    random = torch.Generator().manual_seed(2)
    p, v = torch.randn(6, 6, generator=random).softmax(-1), torch.randn(1, 1, 6, 8, generator=random)
    stimulus = (p @ attention.landscape(v)).detach().double().numpy()[0, 0]
    laplacian = (torch.eye(6) - p).double().numpy()

    def flow(_: float, y: np.ndarray) -> np.ndarray:
        u, w = y.reshape(2, 6, 8)
        du = u - u**3 / 3 - w + stimulus - 0.5 * laplacian @ u
        return np.stack([du, (u + 0.7 - 0.8 * w) / 12.5]).ravel()

    start = np.repeat(rest_state(), 48)
    wanted = solve_ivp(flow, (0, 20), start, rtol=1e-8, atol=1e-8).y[:48, -1].reshape(6, 8) - rest_state()[0]
    found = (attention.react(v, lambda u: p @ u) - p @ v) / 0.1
    assert np.abs(found.detach().numpy()[0, 0] - wanted).max() < 0.05


def test_backward_keeps_no_trajectory() -> None:
    attention, kept, x = build(support="all", substeps=8), [], torch.randn(1, 100, 16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        attention(x, Context())
    assert sum(kept) < 100 * 16 * 9


def test_unknown_support() -> None:
    with pytest.raises(UsageError, match="unknown support"):
        build(support="none")
