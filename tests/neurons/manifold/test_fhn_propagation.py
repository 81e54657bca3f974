"""FHN along the tokens: scipy's trajectory, scan = loop, Newton = steps, gradients through the loop, chunks = whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from torch import Tensor

from neurons.errors import UsageError
from neurons.manifold.affine_scan import Matrix, affine_scan, affine_scan_reference
from neurons.manifold.fhn_propagation import (
    Cells,
    FHNPropagation,
    backwards,
    cubic_flow,
    linear_flow,
    propagate,
    resting,
)
from neurons.specs import Context


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("steps", [1, 2, 7, 64, 101])
def test_the_scan_is_the_loop_with_its_gradients(steps: int) -> None:
    a = Matrix(*(0.8 * draw(2, steps, 3, seed=seed) for seed in range(4)))
    v, w, probe = (draw(2, steps, 3, seed=seed).requires_grad_() for seed in (4, 5, 6))
    results = []
    for form in (affine_scan, affine_scan_reference):
        out = form(a, v, w)
        results.append([*out, *torch.autograd.grad((out[0] * probe + out[1]).sum(), [v, w])])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


def test_linear_flow_is_the_matrix_exponential() -> None:
    flow = linear_flow(torch.tensor([0.3], dtype=torch.float64))
    generator = np.zeros((4, 4))  # the inputs as two constant states
    generator[:2] = [[1, -1, 1, 0], [1 / 12.5, -0.8 / 12.5, 0, 1]]
    wanted = expm(0.3 * generator)[:2]
    np.testing.assert_allclose(torch.stack(flow.matrix).view(2, 2).numpy(), wanted[:, :2], rtol=1e-12, atol=0)
    given = flow.inputs(torch.tensor([0.7], dtype=torch.float64))
    np.testing.assert_allclose(torch.cat(given).numpy(), wanted[:, 2:] @ [0.7, 0.7 / 12.5], rtol=1e-11, atol=0)


def exact(stimulus: np.ndarray, v: float, w: float, dt: float) -> np.ndarray:
    found = []
    for value in stimulus:
        flow = lambda _, y, s=value: [y[0] - y[0] ** 3 / 3 - y[1] + s, (y[0] + 0.7 - 0.8 * y[1]) / 12.5]  # noqa: E731
        v, w = solve_ivp(flow, (0, dt), [v, w], rtol=1e-10, atol=1e-11).y[:, -1]
        found.append(v)
    return np.array(found)


def test_second_order_towards_the_exact_trajectory_through_a_spike() -> None:
    stimulus = np.r_[np.full(20, 0.2), np.full(10, 1.5), np.zeros(30)]
    errors = []
    for fine in (4, 8, 16):
        dt = torch.tensor([0.4 / fine], dtype=torch.float64)
        start = Cells(cubic_flow(torch.tensor([-1.2], dtype=torch.float64), -dt / 2), torch.full_like(dt, -0.6))
        driven = torch.from_numpy(np.repeat(stimulus, fine))[None, :, None]
        v = propagate(driven, start, dt)[0][0, fine - 1 :: fine, 0]
        wanted = exact(stimulus, -1.2, -0.6, 0.4)
        errors.append(np.abs(v.numpy() - wanted).max())
    assert wanted.max() > 1.5  # it fired
    assert errors[0] < 0.05
    assert all(3.4 < ratio < 4.6 for ratio in np.array(errors[:-1]) / errors[1:]), errors


def test_newton_finds_what_the_steps_find() -> None:
    stimulus, dt = 2 * draw(2, 100, 5), torch.full((5,), 0.25, dtype=torch.float64)
    probe = draw(2, 100, 5, seed=1)
    results = []
    for solver in ("steps", "newton"):
        leaves = [stimulus.clone().requires_grad_(), dt.clone().requires_grad_()]
        v, last = propagate(leaves[0], resting(leaves[1]), leaves[1], solver=solver)  # type: ignore[arg-type]
        results.append([v, *last, *torch.autograd.grad((v * probe).sum(), leaves)])
    assert results[0][0].max() > 1.5
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-7, atol=1e-7)


def test_gradients_numerically() -> None:
    def run(stimulus: Tensor, v: Tensor, w: Tensor, dt: Tensor) -> Tensor:
        return propagate(stimulus, Cells(v, w), dt)[0]

    dt = torch.tensor([0.3, 0.45], dtype=torch.float64)
    inputs = [draw(2, 9, 2), draw(2, 2, seed=1), draw(2, 2, seed=2), dt]
    assert torch.autograd.gradcheck(run, [x.requires_grad_() for x in inputs])


def test_every_parameter_learns_and_chunks_give_the_whole() -> None:
    torch.manual_seed(0)
    layer, x, state, parts = FHNPropagation(width=8, causal=True, cells=6), draw(2, 20, 8).float(), {}, []
    layer(x, Context()).square().sum().backward()
    assert [name for name, p in layer.named_parameters() if p.grad is None or not p.grad.any()] == []
    for piece in x.split([1, 7, 12], 1):
        context = Context(state=state)
        parts.append(layer(piece, context))
        state = context.next_state
    torch.testing.assert_close(torch.cat(parts, 1), layer(x, Context()), rtol=0, atol=1e-6)
    assert sum(part.numel() for part in state["fhn_propagation"]) == 2 * 2 * 6


def test_backwards_reads_the_real_tokens_from_the_last() -> None:
    x, mask = torch.arange(5.0)[None, :, None], torch.tensor([[True, True, True, False, False]])
    order, back = backwards(x, mask)
    assert x.gather(1, order).flatten().tolist()[:3] == [2, 1, 0]
    assert torch.equal(x.gather(1, order).gather(1, back), x)


def test_unknown_solver() -> None:
    with pytest.raises(UsageError, match="unknown solver"):
        FHNPropagation(width=8, causal=True, solver="euler")  # type: ignore[arg-type]
