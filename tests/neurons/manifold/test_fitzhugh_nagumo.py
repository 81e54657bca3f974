"""FitzHugh-Nagumo: trajectory and order against scipy, rest state against a root finder, gradients numerically."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import brentq
from torch import Tensor

from neurons.errors import UsageError
from neurons.manifold.fitzhugh_nagumo import StepSize, imex, integrate, response, rest_state


def exact(v: float, w: float, stimulus: float, times: np.ndarray, tau: float = 12.5) -> np.ndarray:
    def flow(_: float, y: np.ndarray) -> list[float]:
        return [y[0] - y[0] ** 3 / 3 - y[1] + stimulus, (y[0] + 0.7 - 0.8 * y[1]) / tau]

    return solve_ivp(flow, (0, times[-1]), [v, w], t_eval=times, rtol=1e-11, atol=1e-12).y.T


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def test_two_spikes_follow_the_exact_trajectory() -> None:
    v, w, found = number(-1.0), number(-0.5), []
    for _ in range(80):
        v, w = integrate(v, w, 0.5, dt=0.01, steps=100)
        found.append([float(v), float(w)])
    wanted = exact(-1.0, -0.5, 0.5, np.arange(1.0, 81.0))
    assert np.sum((wanted[:-1, 0] < 0) & (wanted[1:, 0] > 0)) >= 2  # it does spike
    assert np.abs(np.array(found) - wanted).max() < 2e-3


@pytest.mark.parametrize("tau", [12.5, 0.05])  # recovery slow, and so fast that an explicit one would explode
def test_second_order(tau: float) -> None:
    wanted = exact(-1.0, -0.5, 0.5, np.array([2.0]), tau)[0]
    errors = []
    for steps in (100, 200, 400):
        v, w = integrate(number(-1.0), number(-0.5), 0.5, dt=2.0 / steps, steps=steps, tau=tau)
        errors.append(np.hypot(float(v) - wanted[0], float(w) - wanted[1]))
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.all(np.abs(orders - 2) < 0.1), orders


@pytest.mark.parametrize("stimulus", [0.0, 0.3, 1.0])
def test_rest_state_is_the_root_and_stays(stimulus: float) -> None:
    root = brentq(lambda v: v - v**3 / 3 - (v + 0.7) / 0.8 + stimulus, -3, 3)
    v, w = rest_state(stimulus)
    assert abs(v - root) < 1e-10
    moved = integrate(number(v), number(w), stimulus, dt=0.5, steps=3)  # above I = 0.33 it repels
    np.testing.assert_allclose([float(part) for part in moved], [v, w], rtol=0, atol=1e-8)


def test_gradients_numerically_and_beside_the_kept_trajectory() -> None:
    random = torch.Generator().manual_seed(0)
    v, w, stimulus = (torch.randn(3, dtype=torch.float64, generator=random, requires_grad=True) for _ in range(3))
    dt = torch.full((3,), 0.3, dtype=torch.float64, requires_grad=True)
    inputs = (v, w, stimulus, dt)

    def run(*given: Tensor) -> tuple[Tensor, Tensor]:
        return integrate(*given[:3], dt=given[3], steps=4)

    assert torch.autograd.gradcheck(run, inputs)
    kept = torch.autograd.grad(sum(imex(v, w, stimulus, dt=dt, steps=4)).sum(), inputs)
    for one, two in zip(torch.autograd.grad(sum(run(*inputs)).sum(), inputs), kept, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-14)


def test_only_the_inputs_are_kept_for_backward() -> None:
    kept: list[int] = []
    v = torch.randn(1000, requires_grad=True)
    w, stimulus = torch.zeros(1000), torch.randn(1000)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        integrate(v, w, stimulus, dt=0.1, steps=8)
        few, kept = sum(kept), []
        imex(v, w, stimulus, dt=torch.tensor(0.1), steps=8)
    assert few <= 3001 < sum(kept) / 3


def test_shapes_broadcast_and_types_stay() -> None:
    v, w = integrate(torch.zeros(4, 1), torch.zeros(()), torch.ones(3), dt=torch.full((3,), 0.2), steps=2)
    assert v.shape == w.shape == (4, 3)
    assert v.dtype == torch.float32


def test_step_size_starts_where_it_is_told_and_stays_below_most() -> None:
    size = StepSize(3)
    torch.testing.assert_close(size(), torch.full((3,), 0.25))
    with torch.no_grad():
        size.theta.fill_(50.0)
    assert (size() <= 0.5).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"steps": 0}, "1 step"), ({"dt": 0.0}, "dt above 0"), ({"tau": 0.0}, "tau > 0"), ({"b": -1.0}, "b >= 0")],
)
def test_impossible_values_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        integrate(number(0.0), number(0.0), 0.0, **({"dt": 0.1, "steps": 1} | options))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="0 < b < 1"):
        rest_state(b=1.0)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("tau", [2.0, 12.5])
def test_the_response_is_the_integration_from_rest(steps: int, tau: float) -> None:
    random = torch.Generator().manual_seed(0)
    stimulus = 2 * torch.randn(5, 3, dtype=torch.float64, generator=random)
    dt = torch.tensor([0.05, 0.25, 0.45], dtype=torch.float64, requires_grad=True)
    v, w = (torch.full_like(stimulus, part) for part in rest_state())
    wanted = integrate(v, w, stimulus, dt=dt, steps=steps, tau=tau)[0] - v
    found = response(stimulus, dt=dt, steps=steps, tau=tau)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(side.square().sum(), dt)[0] for side in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)
