"""Means, paired differences and exponents, each with its interval; few seeds, so Student's t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from neurons.errors import UsageError


class Interval(NamedTuple):
    """An estimate and the ends of its two-sided interval; None where there are too few values for one."""

    mean: float
    low: float | None
    high: float | None


class Difference(NamedTuple):
    """A mean difference, its interval, and the two-sided p of a true difference of 0; None for a single pair."""

    mean: float
    low: float | None
    high: float | None
    p: float | None


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Mean and t interval, mean -+ t_{n-1} s / sqrt(n) with s the sample standard deviation (n - 1)."""
    n = len(values)
    if n == 0:
        raise UsageError("a mean needs at least one value")
    mean = float(np.mean(values))
    if n == 1:
        return Interval(mean, None, None)
    half = _quantile(n - 1, confidence) * _standard_error(values)
    return Interval(mean, mean - half, mean + half)


def paired_difference(first: Sequence[float], second: Sequence[float], *, confidence: float = 0.95) -> Difference:
    """Mean of first[i] - second[i] with its t interval; both hold the same seeds in the same order."""
    if len(first) != len(second):
        raise UsageError(f"a paired difference needs the same seeds on both sides, not {len(first)} and {len(second)}")
    differences = [a - b for a, b in zip(first, second, strict=True)]
    mean, low, high = mean_interval(differences, confidence=confidence)
    if low is None:
        return Difference(mean, None, None, None)
    error = _standard_error(differences)
    if error == 0.0:
        return Difference(mean, low, high, 1.0 if mean == 0.0 else 0.0)
    return Difference(mean, low, high, float(2 * stats.t.sf(abs(mean) / error, len(differences) - 1)))


def scaling_exponent(sizes: Sequence[float], costs: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """b of cost = a size^b by least squares in logarithms, with its t interval (n - 2 degrees of freedom).

    Needs two sizes; the interval needs three. Sizes and costs are positive.
    """
    if len(sizes) != len(costs) or len(set(sizes)) < 2 or min(*sizes, *costs) <= 0:
        raise UsageError("an exponent needs costs at two sizes or more, all positive")
    x, y = np.log(np.asarray(sizes, dtype=float)), np.log(np.asarray(costs, dtype=float))
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * y).sum()) / spread
    freedom = len(x) - 2
    if freedom == 0:
        return Interval(slope, None, None)
    residual = float(((y - y.mean() - slope * (x - x.mean())) ** 2).sum())
    half = _quantile(freedom, confidence) * math.sqrt(residual / freedom / spread)
    return Interval(slope, slope - half, slope + half)


def _standard_error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))


def _quantile(freedom: int, confidence: float) -> float:
    return float(stats.t.ppf(0.5 + confidence / 2, freedom))
