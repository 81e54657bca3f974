"""Intervals against scipy.stats, tables and known exponents."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from baselines.stats import mean_interval, paired_difference, scaling_exponent
from neurons.errors import UsageError

VALUES = [81.2, 80.4, 82.9, 81.0, 79.8]


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_mean_interval_is_scipys_t_interval(count: int, confidence: float) -> None:
    values = VALUES[:count]
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(confidence)
    got = mean_interval(values, confidence=confidence)
    np.testing.assert_allclose(got, (np.mean(values), expected.low, expected.high))


def test_mean_interval_by_the_table() -> None:
    """t(0.975, 2) = 4.303; the standard deviation of 1, 2, 3 is 1."""
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval.high == pytest.approx(2 + 4.303 / math.sqrt(3), abs=1e-3)


def test_one_value_has_no_interval_and_none_is_an_error() -> None:
    assert mean_interval([3.0]) == (3.0, None, None)
    assert paired_difference([3.0], [1.0]) == (2.0, None, None, None)
    with pytest.raises(UsageError):
        mean_interval([])


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    covered = []
    for _ in range(2000):
        interval = mean_interval(random.normal(1.0, 2.0, size=3).tolist(), confidence=0.9)
        covered.append(interval.low <= 1.0 <= interval.high)
    assert np.mean(covered) == pytest.approx(0.9, abs=0.02)


def test_paired_difference_is_scipys_paired_t() -> None:
    first, second = VALUES, [80.1, 80.0, 81.1, 80.6, 79.9]
    expected = stats.ttest_rel(first, second)
    bounds = expected.confidence_interval(0.95)
    difference = np.mean(np.subtract(first, second))
    np.testing.assert_allclose(paired_difference(first, second), (difference, bounds.low, bounds.high, expected.pvalue))


@pytest.mark.parametrize(("shift", "p"), [(0.0, 1.0), (0.5, 0.0)])
def test_equal_differences_leave_no_doubt(shift: float, p: float) -> None:
    assert paired_difference([1.0 + shift, 2.0 + shift], [1.0, 2.0]) == (shift, shift, shift, p)


def test_paired_difference_refuses_unequal_sides() -> None:
    with pytest.raises(UsageError, match="not 1 and 2"):
        paired_difference([1.0], [1.0, 2.0])


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.5, 2.0])
def test_exact_power_law_gives_its_exponent_and_no_width(exponent: float) -> None:
    sizes = [512, 1024, 2048, 8192]
    fit = scaling_exponent(sizes, [3e-6 * n**exponent for n in sizes])
    np.testing.assert_allclose(fit, (exponent, exponent, exponent), atol=1e-6)


def test_noisy_power_law_has_scipys_standard_error() -> None:
    sizes = np.array([512, 1024, 2048, 4096, 8192])
    costs = 1e-5 * sizes**1.7 * np.exp(np.random.default_rng(0).normal(0, 0.1, 5))
    fit = stats.linregress(np.log(sizes), np.log(costs))
    half = 3.182446 * fit.stderr  # t(0.975, 3)
    got = scaling_exponent(sizes.tolist(), costs.tolist())
    np.testing.assert_allclose(got, (fit.slope, fit.slope - half, fit.slope + half), rtol=1e-5)


def test_two_sizes_give_a_slope_without_an_interval() -> None:
    fit = scaling_exponent([1, 2], [1.0, 4.0])
    assert fit.mean == pytest.approx(2.0)
    assert (fit.low, fit.high) == (None, None)


@pytest.mark.parametrize(
    ("sizes", "costs"), [([8], [1.0]), ([8, 8], [1.0, 2.0]), ([1, 2], [1.0, 0.0]), ([1, 2], [1.0])]
)
def test_impossible_fits_are_refused(sizes: list[float], costs: list[float]) -> None:
    with pytest.raises(UsageError):
        scaling_exponent(sizes, costs)
