"""Points of the unit disc from channel pairs: the fast form against complex arithmetic and finite differences."""

from __future__ import annotations

import cmath
import math

import pytest
import torch
from torch import Tensor

from neurons.oscillations.turned_disc import turned_disc, turned_disc_reference

GAIN = 3.0


def sample(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """A transposed value (2, 3, 5, 6) with one silent token, and the turns of three heads."""
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(2, 5, 18, generator=generator, dtype=dtype)
    value[0, 2] = 0
    angle = torch.rand(3, 5, generator=generator, dtype=torch.float64) * 2 * math.pi
    heads = value.unflatten(-1, (3, 6)).transpose(1, 2)
    return heads.requires_grad_(), angle.cos().to(dtype), angle.sin().to(dtype)


@pytest.mark.parametrize("form", [turned_disc, turned_disc_reference])
def test_one_point_by_hand(form) -> None:
    value, cos, sin = sample()
    x, y = value[1, 2, 3, 2:4].tolist()
    w = complex(x, y)
    wanted = GAIN * w / math.sqrt(1 + GAIN**2 * abs(w) ** 2) * cmath.rect(1, math.atan2(sin[2, 3], cos[2, 3]))
    got = form(value, 2, GAIN, cos, sin)[1][1, 2, 3].tolist()
    assert got == pytest.approx([wanted.real, wanted.imag], abs=1e-14)


@pytest.mark.parametrize("points", [1, 2])
def test_the_fast_form_is_the_plain_one(points: int) -> None:
    value, cos, sin = sample()
    fast, slow = (form(value, points, GAIN, cos, sin) for form in (turned_disc, turned_disc_reference))
    seeds = [torch.randn_like(z) for z in slow]
    torch.testing.assert_close(fast, tuple(slow), rtol=1e-12, atol=1e-14)
    of_fast, of_slow = (torch.autograd.grad(z, value, seeds)[0] for z in (fast, slow))
    torch.testing.assert_close(of_fast, of_slow, rtol=1e-12, atol=1e-13)
    assert torch.equal(of_fast[..., 2 * points :], torch.zeros(2, 3, 5, 6 - 2 * points, dtype=torch.float64))
    with torch.no_grad():
        torch.testing.assert_close(turned_disc(value, points, GAIN, cos, sin), tuple(slow), rtol=1e-12, atol=1e-14)
    assert torch.autograd.gradcheck(lambda v: turned_disc(v, points, GAIN, cos, sin), value)


def test_a_gradient_of_one_point_only() -> None:
    value, cos, sin = sample()
    fast, slow = (form(value, 2, GAIN, cos, sin)[1].sum() for form in (turned_disc, turned_disc_reference))
    torch.testing.assert_close(torch.autograd.grad(fast, value), torch.autograd.grad(slow, value))


def test_float32_keeps_its_precision() -> None:
    value, cos, sin = sample(torch.float32)
    wide = turned_disc_reference(value.double(), 2, GAIN, cos.double(), sin.double())
    for got, wanted in zip(turned_disc(value, 2, GAIN, cos, sin), wide, strict=True):
        assert (got - wanted).abs().max() < 2.5e-7
