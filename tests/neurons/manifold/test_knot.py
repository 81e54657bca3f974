"""Linking numbers against topology, a quadrature by scipy and signed crossings of a projection."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import dblquad
from torch import Tensor

from neurons.errors import UsageError
from neurons.manifold.knot import gauss_integral, linking_number


def circle(n: int, *, centre: tuple[float, float, float] = (0, 0, 0), plane: str = "xy") -> Tensor:
    angle = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    parts = {"x": torch.zeros(n), "y": torch.zeros(n), "z": torch.zeros(n)}
    parts[plane[0]], parts[plane[1]] = angle.cos(), angle.sin()
    return torch.stack([parts[axis].double() for axis in "xyz"], 1) + torch.tensor(centre)


def torus_curve(turns: int, n: int, shift: float) -> Tensor:
    """One strand of the torus link T(2, 2 turns): two of them link ``turns`` times."""
    t = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    radius = 2 + torch.cos(turns * t + shift)
    return torch.stack([radius * t.cos(), radius * t.sin(), torch.sin(turns * t + shift)], 1)


def crossings(a: Tensor, b: Tensor) -> float:
    """Half the sum of signed crossings in the projection to the plane: an independent definition of linking."""
    total = 0
    for p1, p2 in zip(a, a.roll(-1, 0), strict=True):
        for q1, q2 in zip(b, b.roll(-1, 0), strict=True):
            u, v, r = p2 - p1, q2 - q1, q1 - p1
            det = float(u[0] * v[1] - u[1] * v[0])
            s, t = float(r[0] * v[1] - r[1] * v[0]) / det, float(r[0] * u[1] - r[1] * u[0]) / det
            if 0 <= s < 1 and 0 <= t < 1:
                above = float((p1 + s * u)[2] - (q1 + t * v)[2])
                total += math.copysign(1, above) * math.copysign(1, det)
    return total / 2


@pytest.mark.parametrize("n", [3, 4, 10, 101])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_hopf_link_is_one_and_turns_its_sign(n: int, kind: torch.dtype) -> None:
    a, b = circle(n).to(kind), circle(n, centre=(1.0, 0.0, 0.0), plane="xz").to(kind)
    value = linking_number(a, b)
    close = 1e-5 if kind == torch.float32 else 1e-12
    assert abs(abs(float(value)) - 1) < close
    assert abs(float(linking_number(a.flip(0), b)) + float(value)) < close
    assert abs(float(linking_number(b, a)) - float(value)) < close


@pytest.mark.parametrize("centre", [(3.0, 0.0, 0.0), (0.0, 0.0, 0.5), (1.0, 2.5, 0.2)])
def test_unlinked_circles_are_zero(centre: tuple[float, float, float]) -> None:
    assert abs(float(linking_number(circle(30), circle(41, centre=centre)))) < 1e-12


@pytest.mark.parametrize("turns", [1, 2, 3, 5])
def test_torus_links_and_numpy(turns: int) -> None:
    a, b = torus_curve(turns, 90, 0.0).numpy(), torus_curve(turns, 70, math.pi).numpy()
    assert abs(abs(float(linking_number(a, b))) - turns) < 1e-10


def test_random_polygons_agree_with_their_crossings() -> None:
    random = torch.Generator().manual_seed(0)
    found = []
    for _ in range(12):
        a, b = (torch.randn(9, 3, generator=random, dtype=torch.float64) for _ in range(2))
        found.append(crossings(a, b))
        assert abs(float(linking_number(a, b)) - found[-1]) < 1e-10
    assert len(set(found)) >= 3


def test_a_pair_of_segments_is_the_double_integral() -> None:
    random = np.random.default_rng(1)
    for _ in range(4):
        a, b = random.normal(size=(2, 2, 3))

        def density(t: float, s: float, a: np.ndarray = a, b: np.ndarray = b) -> float:
            u, v = a[1] - a[0], b[1] - b[0]
            r = (a[0] + s * u) - (b[0] + t * v)
            return float(r @ np.cross(u, v) / np.linalg.norm(r) ** 3) / (4 * math.pi)

        wanted = dblquad(density, 0, 1, 0, 1, epsabs=1e-10)[0]
        assert abs(float(gauss_integral(torch.from_numpy(a), torch.from_numpy(b))) - wanted) < 1e-8


def test_open_arcs_add_up_to_closed_curves_and_batch() -> None:
    a, b = torus_curve(2, 40, 0.0), torus_curve(2, 40, math.pi)
    a, b = torch.cat([a, a[:1]]), torch.cat([b, b[:1]])
    parts = [a[i : i + 11] for i in range(0, 40, 10)]
    both = gauss_integral(torch.stack(parts), b.expand(4, -1, -1))
    torch.testing.assert_close(both.sum(), gauss_integral(a, b), rtol=0, atol=1e-12)
    for value, part in zip(both, parts, strict=True):
        torch.testing.assert_close(value, gauss_integral(part, b), rtol=0, atol=1e-12)


def test_it_does_not_change_with_size_place_or_rotation() -> None:
    random = torch.Generator().manual_seed(3)
    a, b = (torch.randn(6, 3, generator=random, dtype=torch.float64) for _ in range(2))
    turn = torch.linalg.qr(torch.randn(3, 3, generator=random, dtype=torch.float64))[0]
    turn = turn * torch.det(turn)
    moved = [1e-3 * curve @ turn.T + 5 for curve in (a, b)]
    torch.testing.assert_close(gauss_integral(*moved), gauss_integral(a, b), rtol=1e-8, atol=1e-8)


def test_gradient_numerically_and_finite_where_curves_touch() -> None:
    random = torch.Generator().manual_seed(4)
    a, b = (torch.randn(4, 3, generator=random, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(gauss_integral, (a, b))
    shared = torch.cat([a[:3], b[2:]])  # begins on a itself
    for other in (a, shared, torch.zeros_like(a) * a, a.flip(0)):
        value = gauss_integral(a, other)
        assert all(
            torch.isfinite(g).all() for g in torch.autograd.grad(value, [a, b], allow_unused=True) if g is not None
        )
    assert abs(float(gauss_integral(torch.zeros(5, 3), torch.zeros(5, 3)))) == 0
    line = torch.arange(5.0)[:, None] * torch.tensor([1.0, 2.0, -1.0])
    assert abs(float(gauss_integral(line, line + line[1]))) == 0


def test_writhe_of_one_curve_with_itself_is_finite_and_mirrored() -> None:
    trefoil_t = 2 * math.pi * torch.arange(60, dtype=torch.float64) / 60
    trefoil = torch.stack(
        [
            trefoil_t.sin() + 2 * (2 * trefoil_t).sin(),
            trefoil_t.cos() - 2 * (2 * trefoil_t).cos(),
            -(3 * trefoil_t).sin(),
        ],
        1,
    )
    writhe = float(linking_number(trefoil, trefoil))
    assert 3 < abs(writhe) < 4  # 3.4 to 3.5 for the usual trefoils
    assert (
        abs(float(linking_number(trefoil * torch.tensor([1, 1, -1]), trefoil * torch.tensor([1, 1, -1]))) + writhe)
        < 1e-9
    )


@pytest.mark.parametrize("shape", [(5, 2), (2, 3), (3, 5, 3)])
def test_what_is_no_closed_curve_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"\(n, 3\) with n of 3 or more"):
        linking_number(torch.zeros(*shape), circle(5))
