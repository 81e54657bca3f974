"""Positions: Ramanujan sums against their definition, RoPE against complex rotation matrices, ALiBi against a loop."""

from __future__ import annotations

import cmath
import math

import pytest
import torch

from neurons import POSITIONS
from neurons.errors import UsageError
from neurons.manifold.positions import Position, ramanujan_rows, ramanujan_sum, rotate


def build(name: str, width: int = 16, length: int = 20) -> Position:
    torch.manual_seed(0)
    return POSITIONS.build(name, width=width, heads=2, length=length)


@pytest.mark.parametrize("q", [1, 2, 6, 7, 12, 30, 49])
def test_closed_form_equals_the_definition(q: int) -> None:
    for n in range(2 * q):
        terms = [cmath.exp(2j * math.pi * a * n / q) for a in range(1, q + 1) if math.gcd(a, q) == 1]
        assert abs(sum(terms) - ramanujan_sum(q, n)) < 1e-9


@pytest.mark.parametrize("q", [5, 12, 30])
def test_autocorrelation_depends_on_the_distance_alone(q: int) -> None:
    for shift in range(q):
        products = sum(ramanujan_sum(q, n) * ramanujan_sum(q, n + shift) for n in range(q))
        assert products == q * ramanujan_sum(q, shift)


def test_ramanujan_rows_have_unit_scale_and_none_returns() -> None:
    rows = ramanujan_rows(0, 1024, 128)
    torch.testing.assert_close(rows.square().mean(1), torch.ones(1024), rtol=1e-5, atol=0)
    nearest = torch.cdist(rows, rows).fill_diagonal_(math.inf).min()
    assert nearest > 0.1
    cosines = torch.nn.functional.normalize(rows[[67, 101, 997], :64])
    assert (cosines - cosines[0]).abs().max() < 1e-6  # without quadratures the primes beyond 65 are one row
    torch.testing.assert_close(ramanujan_rows(1000, 24, 128), rows[1000:], rtol=0, atol=0)


def test_ramanujan_begins_at_a_fiftieth_and_learns_its_scale() -> None:
    position = build("ramanujan")
    added = position.embed(torch.zeros(2, 20, 16))
    torch.testing.assert_close(added.square().mean(-1).sqrt(), torch.full((2, 20), 0.02), rtol=1e-4, atol=0)
    later = position.embed(torch.zeros(1, 8, 16), start=30)  # beyond the table
    torch.testing.assert_close(later[0], 0.02 * ramanujan_rows(30, 8, 16), rtol=1e-6, atol=0)
    added.square().sum().backward()
    assert position.scale.grad is not None


def test_learned_rows_are_the_table_and_end() -> None:
    position = build("learned")
    torch.testing.assert_close(position.embed(torch.zeros(1, 5, 16), 3)[0], position.table.weight[3:8])
    with pytest.raises(UsageError, match="reach to 20 tokens, not 21"):
        position.embed(torch.zeros(1, 1, 16), 20)


def test_rope_turns_by_matrices_and_sees_distances_only() -> None:
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
    turned = rotate(x, 2)
    for t in range(5):
        blocks = []
        for i in range(4):
            angle = (t + 2) * 10000 ** (-2 * i / 8)
            blocks.append(torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]))
        torch.testing.assert_close(turned[:, t], x[:, t] @ torch.block_diag(*blocks).T, rtol=0, atol=1e-6)
    same = x[:, :1].expand(-1, 40, -1)
    products = rotate(same, 0) @ rotate(same, 0).mT
    torch.testing.assert_close(products[:, 3, 1], products[:, 38, 36], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rotate(same, 7)[:, 0], rotate(same, 0)[:, 7], rtol=0, atol=1e-6)


def test_rope_in_place_equals_the_pure_form_with_gradients() -> None:
    position = build("rope")
    x = torch.randn(2, 6, 48, generator=torch.Generator().manual_seed(1), requires_grad=True)
    probe = torch.randn(2, 6, 48, generator=torch.Generator().manual_seed(2))
    fast = position.turn(x * 1, 4)
    pure = rotate(x[..., :32].unflatten(-1, (4, 8)), 4, tokens=-3).flatten(-2)
    slow = torch.cat([pure, x[..., 32:]], -1)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-6)
    grads = [torch.autograd.grad((out * probe).sum(), x)[0] for out in (fast, slow)]
    torch.testing.assert_close(*grads, rtol=0, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_alibi_is_a_slope_per_head(causal: bool) -> None:
    bias = build("alibi").bias(2, 5, causal, torch.zeros(1))[0]
    for head, slope in enumerate((2.0**-4, 2.0**-8)):
        for row, i in enumerate((3, 4)):
            for j in range(5):
                wanted = -math.inf if causal and j > i else -slope * abs(i - j)
                assert bias[head, row, j] == wanted


def test_each_acts_in_its_place() -> None:
    x = torch.zeros(1, 4, 48)
    for name in POSITIONS.names():
        position = build(name)
        at_entry = not torch.equal(position.embed(x[..., :16]), x[..., :16])
        inside = not torch.equal(position.turn(x + 1), x + 1) or position.bias(4, 4, True, x) is not None
        assert (at_entry, inside) == {
            "none": (False, False),
            "learned": (True, False),
            "ramanujan": (True, False),
            "rope": (False, True),
            "alibi": (False, True),
        }[name]
    with pytest.raises(UsageError, match="even size"):
        build("rope", width=6)
