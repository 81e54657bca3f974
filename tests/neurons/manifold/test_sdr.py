"""Sparse sets against Python's sets, dense algebra, and the hypergeometric law."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import hypergeom
from torch import Tensor

from neurons.errors import UsageError
from neurons.manifold import sdr


def draw(count: int, size: int = 2048, active: int = 40, seed: int = 0) -> Tensor:
    scores = torch.rand(count, size, generator=torch.Generator().manual_seed(seed))
    return sdr.threshold(scores, active)


def as_set(row: Tensor) -> set[int]:
    return {int(bit) for bit in row if bit >= 0}


def test_sets_are_pythons_sets() -> None:
    a, b = draw(30, 200, 40), draw(30, 200, 40, seed=1)
    both, either = sdr.intersection(a, b), sdr.union(a, b)
    for row in range(30):
        one, two = as_set(a[row]), as_set(b[row])
        assert as_set(both[row]) == one & two
        assert as_set(either[row]) == one | two
        assert int(sdr.overlap(a, b)[row]) == len(one & two)
        assert int(sdr.distance(a, b)[row]) == len(one ^ two)
        assert list(either[row][either[row] >= 0]) == sorted(one | two)
    assert sdr.union(a[0], b[0]).shape == (len(as_set(a[0]) | as_set(b[0])),)  # one set has no gaps
    assert sdr.overlap(either, a).tolist() == [40] * 30  # sets of different sizes
    assert sdr.intersection([1, 2], [3]).shape == (0,)
    assert sdr.overlap(np.array([1, 5, 9]), [5, 9, 11]) == 2


def test_a_set_is_eighty_bytes_of_the_best() -> None:
    scores = torch.randn(2048, generator=torch.Generator().manual_seed(2))
    found = sdr.threshold(scores)
    assert found.dtype == torch.int16
    assert found.numel() * found.element_size() == 80
    assert as_set(found) == set(np.argsort(-scores.numpy())[:40].tolist())
    assert torch.equal(sdr.to_dense(found, 2048).nonzero().flatten(), found.long())


def test_distance_is_a_metric() -> None:
    a, b, c = (draw(50, 128, 20, seed=seed) for seed in range(3))
    assert torch.equal(sdr.distance(a, b), sdr.distance(b, a))
    assert (sdr.distance(a, c) <= sdr.distance(a, b) + sdr.distance(b, c)).all()
    assert not sdr.distance(a, a).any()


def test_false_matches_follow_the_hypergeometric_law() -> None:
    for size, active, theta in ((2048, 40, 10), (2048, 40, 5), (256, 8, 3)):
        wanted = hypergeom.sf(theta - 1, size, active, active)
        assert sdr.false_match_rate(size, active, theta) == pytest.approx(wanted, rel=1e-6)
    assert sdr.false_match_rate(2048, 40, 10) == pytest.approx(1.4e-9, rel=0.05)
    one, many = draw(1, 256, 8), draw(20000, 256, 8, seed=1)
    for theta in (1, 2, 3):
        rate = sdr.false_match_rate(256, 8, theta)
        found = (sdr.overlap(one, many) >= theta).double().mean().item()
        assert abs(found - rate) < 4 * (rate * (1 - rate) / 20000) ** 0.5


def test_a_bag_of_rows_is_the_dense_product_with_its_gradients() -> None:
    torch.manual_seed(0)
    linear, index = sdr.SDRLinear(64, 5, active=8).double(), draw(6, 64, 8).view(2, 3, 8)
    grades = torch.rand(2, 3, 8, dtype=torch.float64, requires_grad=True)
    dense = torch.zeros(2, 3, 64, dtype=torch.float64).scatter(-1, index.long(), grades)
    outs = (linear(index, grades), dense @ linear.weight)
    results = [[out, *torch.autograd.grad(out.square().sum(), [grades, linear.weight])] for out in outs]
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(linear(index), sdr.to_dense(index, 64).double() @ linear.weight)


@pytest.mark.parametrize("shift", [0.0, -10.0])  # all scores negative: a factor would favour the overused
def test_boosting_brings_every_bit_into_use(shift: float) -> None:
    random = torch.Generator().manual_seed(0)
    liked = torch.linspace(0, 3, 100) + shift
    use = {}
    for strength in (0.0, 1.0):
        boosting = sdr.Boosting(100, active=5, strength=strength, momentum=0.2)
        total = torch.zeros(100)
        for episode in range(60):
            scores = liked + 0.3 * torch.randn(4, 25, 100, generator=random)
            index = sdr.threshold(boosting(scores), 5)
            boosting.observe(index, None)
            boosting.end_episode()
            if episode >= 40:
                total += torch.bincount(index.flatten().long(), minlength=100)
        share = total / total.sum()
        use[strength] = float(-(share * share.clamp_min(1e-12).log()).sum() / np.log(100))
        assert boosting.duty.sum() == pytest.approx(5, rel=1e-4)
    assert use[0.0] < 0.7
    assert use[1.0] > 0.9


def test_evaluation_leaves_no_trace_and_padding_is_not_counted() -> None:
    boosting = sdr.Boosting(16, active=2)
    index = torch.tensor([[[0, 1], [2, 3]]], dtype=torch.int16)
    boosting.observe(index, torch.tensor([[True, False]]))
    assert boosting.last[:4].tolist() == [1, 1, 0, 0]
    boosting.eval().observe(index.flip(1), None)
    assert boosting.last[:4].tolist() == [1, 1, 0, 0]


def test_dense_vectors_are_refused() -> None:
    with pytest.raises(UsageError, match="a row of indices, not a dense vector"):
        sdr.overlap(torch.rand(8), torch.rand(8))
    with pytest.raises(UsageError, match="not 9 of 8"):
        sdr.threshold(torch.rand(8), 9)
