"""Intervals and tests for what is measured. Deterministic: the bootstrap is seeded."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple


class Interval(NamedTuple):
    """A point estimate with its confidence limits."""

    value: float
    low: float
    high: float


def proportion(successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Share of successes with Wilson's score interval (Wilson 1927); sound for small n and for 0 and 100 %."""
    if n == 0:
        return Interval(math.nan, 0.0, 1.0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def mean(values: Sequence[float], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean with a percentile bootstrap interval (Efron 1979)."""
    if not values:
        return Interval(math.nan, math.nan, math.nan)
    draw = random.Random(seed)
    n = len(values)
    means = sorted(math.fsum(draw.choices(values, k=n)) / n for _ in range(resamples))
    tail = (1 - confidence) / 2
    return Interval(
        math.fsum(values) / n, means[int(tail * resamples)], means[min(resamples - 1, int((1 - tail) * resamples))]
    )


def sign_test(better: int, worse: int) -> float:
    """One-sided p of at least `worse` losses among the pairs that differ, if both outcomes were equally likely."""
    n = better + worse
    return sum(math.comb(n, k) for k in range(worse, n + 1)) / float(2**n)
