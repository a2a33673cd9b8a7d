"""Intervals and tests for what is measured. Deterministic: the bootstrap is seeded."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from statistics import NormalDist, correlation
from typing import NamedTuple


class Interval(NamedTuple):
    """A point estimate with its confidence limits."""

    value: float
    low: float
    high: float


def proportion(successes: float, n: int, *, confidence: float = 0.95) -> Interval:
    """Share of successes with Wilson's score interval (Wilson 1927); sound for small n and for 0 and 100 %.

    `successes` may also be the sum of values from 0 to 1, such as means over seeds: these scatter at most as ones and zeros
    of the same mean do, so that the interval is rather too wide than too narrow.
    """
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


def paired_difference(before: Sequence[float], after: Sequence[float]) -> Interval:
    """Mean of `after - before` over the same questions, with a bootstrap interval that draws whole pairs."""
    return mean([new - old for old, new in zip(before, after, strict=True)])


def sign_flip_test(differences: Sequence[int]) -> float:
    """Two-sided exact p that the differences of pairs are as far from zero as this in sum, if each sign were a coin's.

    With differences of -1, 0 and 1 this is the sign test, McNemar's test in its exact form.

    All 2^n ways to choose the signs are counted: the number of ways to each sum is a coefficient of the product of
    `1 + x^(2d)` over the sizes d, and the polynomial is held in one integer whose digits, of n + 2 bits, are its
    coefficients. Where that would be larger than some megabytes, the sum is taken to be normal, which it then is nearly.
    """
    common = math.gcd(*differences)
    sizes = [abs(difference) // common for difference in differences if difference]
    observed = abs(sum(differences)) // common if common else 0
    if not observed:
        return 1.0
    largest = sum(sizes)
    digit = len(sizes) + 2
    if digit * 2 * largest > _EXACT_BITS:
        return 2 * NormalDist(sigma=math.sqrt(sum(size * size for size in sizes))).cdf(-observed)
    ways = 1
    for size in sizes:
        ways += ways << (digit * 2 * size)
    at_least = ways >> (digit * (largest + observed))
    tail = at_least % ((1 << digit) - 1)  # the sum of its digits, which fits into one
    return float(min(1.0, 2 * tail / (1 << len(sizes))))


_EXACT_BITS = 50_000_000


def smallest_difference(differences: Sequence[float], *, level: float = 0.05, power: float = 0.8) -> float:
    """The true mean difference that so many pairs, scattered like these, would show with this power (two-sided).

    Pairs that hardly differ are taken to scatter as if one more of them had differed by one, since none seen does not
    mean that there are none.
    """
    n = len(differences)
    if n < 2:
        return math.inf
    centre = math.fsum(differences) / n
    variance = math.fsum((difference - centre) ** 2 for difference in differences) / (n - 1)
    normal = NormalDist()
    return (normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power)) * math.sqrt(max(variance, 1 / n) / n)


def spearman(first: Sequence[float], second: Sequence[float], *, confidence: float = 0.95) -> Interval | None:
    """Rank correlation, ties sharing their mean rank, with Fieller's interval (1957). None where one side never varies."""
    n = len(first)
    if n < 4 or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    value = correlation(_ranks(first), _ranks(second))
    centre = math.atanh(max(-0.999999, min(0.999999, value)))
    half = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(1.06 / (n - 3))
    return Interval(value, min(value, math.tanh(centre - half)), max(value, math.tanh(centre + half)))


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    for _, equals in groupby(enumerate(order), key=lambda placed: values[placed[1]]):
        placed = list(equals)
        shared = (placed[0][0] + placed[-1][0]) / 2
        for _, index in placed:
            ranks[index] = shared
    return ranks


def kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's kappa (1960): agreement of two raters beyond chance. None where chance alone would agree always."""
    n = len(pairs)
    if not n:
        return None
    observed = sum(first == second for first, second in pairs) / n
    firsts, seconds = Counter(first for first, _ in pairs), Counter(second for _, second in pairs)
    chance = sum(count * seconds[label] for label, count in firsts.items()) / n**2
    return None if chance == 1 else (observed - chance) / (1 - chance)


def share_at_equal_length(shares: Sequence[float], length_differences: Sequence[float]) -> Interval | None:
    """The win share that is left when both replies are equally long (in idea AlpacaEval 2's, Dubois et al. 2024).

    A logistic regression of the share (0 to 1) on tanh of the standardised length difference, by Newton's method with a
    weak ridge, so that a side that always wins keeps a finite estimate; its value at difference zero, with the interval
    of the intercept. None with fewer than 8 pairs.
    """
    n = len(shares)
    if n < 8:
        return None
    scale = math.sqrt(math.fsum(d * d for d in length_differences) / n) or 1.0
    lengths = [math.tanh(difference / scale) for difference in length_differences]
    intercept = slope = 0.0
    variance = math.inf
    for _ in range(50):
        fitted = [_logistic(intercept + slope * x) for x in lengths]
        weights = [p * (1 - p) for p in fitted]
        a = math.fsum(weights) + _RIDGE
        b = math.fsum(w * x for w, x in zip(weights, lengths, strict=True))
        c = math.fsum(w * x * x for w, x in zip(weights, lengths, strict=True)) + _RIDGE
        left = [y - p for y, p in zip(shares, fitted, strict=True)]
        up = math.fsum(left) - _RIDGE * intercept
        along = math.fsum(r * x for r, x in zip(left, lengths, strict=True)) - _RIDGE * slope
        determinant = a * c - b * b
        step = (c * up - b * along) / determinant, (a * along - b * up) / determinant
        intercept, slope = intercept + step[0], slope + step[1]
        variance = c / determinant
        if max(map(abs, step)) < 1e-9:
            break
    half = NormalDist().inv_cdf(0.975) * math.sqrt(variance)
    return Interval(_logistic(intercept), _logistic(intercept - half), _logistic(intercept + half))


_RIDGE = 0.05


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
