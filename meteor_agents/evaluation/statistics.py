"""Intervals, tests and agreement coefficients for held-out results.

Everything is deterministic: the bootstrap is seeded, and no result depends on the order of its observations.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist, correlation, fmean, variance
from typing import NamedTuple

_NORMAL = NormalDist()


class Interval(NamedTuple):
    """A point estimate with its confidence limits."""

    value: float
    low: float
    high: float


def proportion(successes: float, n: int, *, confidence: float = 0.95) -> Interval:
    """Share of successes with Wilson's score interval (Wilson 1927), which suits small n and shares of 0 and 100 %.

    `successes` may also be the sum of values between 0 and 1, such as means over seeds. Their variance is at most that of
    zeros and ones with the same mean, so the interval is then conservative. With n = 0 the share is NaN.

    >>> interval = proportion(8, 10)
    >>> f"{interval.value:.1%} [{interval.low:.1%}, {interval.high:.1%}]"
    '80.0% [49.0%, 94.3%]'
    """
    if n == 0:
        return Interval(math.nan, 0.0, 1.0)
    z = _NORMAL.inv_cdf((1 + confidence) / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def mean(values: Sequence[float], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean with a percentile bootstrap interval (Efron 1979). All three are NaN without values.

    The values are sorted before they are resampled, so that the interval depends on the values and not on their order.

    >>> mean([6.0, 8.0, 7.0]) == mean([7.0, 6.0, 8.0])
    True
    """
    if not values:
        return Interval(math.nan, math.nan, math.nan)
    draw = random.Random(seed)
    ordered = sorted(values)
    means = sorted(fmean(draw.choices(ordered, k=len(ordered))) for _ in range(resamples))
    tail = (1 - confidence) / 2
    return Interval(
        fmean(ordered), means[int(tail * resamples)], means[min(resamples - 1, int((1 - tail) * resamples))]
    )


def sign_test(better: int, worse: int) -> float:
    """One-sided exact p: the probability of at least `worse` losses if wins and losses were equally likely.

    >>> sign_test(better=0, worse=5)
    0.03125
    """
    n = better + worse
    return sum(math.comb(n, k) for k in range(worse, n + 1)) / float(2**n)


def paired_difference(before: Sequence[float], after: Sequence[float]) -> Interval:
    """Mean of `after - before` over the same questions; the bootstrap resamples whole pairs.

    >>> paired_difference([4.0, 5.0], [6.0, 7.0]).value
    2.0
    """
    return mean([new - old for old, new in zip(before, after, strict=True)])


def sign_flip_test(differences: Sequence[int]) -> float:
    """Two-sided p of a paired permutation test: how often random signs give a sum at least as far from zero.

    With differences of -1, 0 and 1 this is the exact sign test, which is McNemar's test in its exact form.

    The test is exact: it counts all 2^n choices of signs. The number of choices with a given sum is a coefficient of the
    product of `1 + x^(2d)` over the sizes d; the polynomial is held in one integer whose digits of n + 2 bits are its
    coefficients. If that integer would exceed some megabytes, the normal approximation is used instead.

    >>> sign_flip_test([1, 1, 1, 1, 1])
    0.0625
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


def minimum_detectable_difference(differences: Sequence[float], *, level: float = 0.05, power: float = 0.8) -> float:
    """The true mean difference that a two-sided test on as many pairs, scattered like these, detects with this power.

    The variance is taken to be at least 1/n, as if one pair had differed by one: pairs that all agree do not prove that
    there is no scatter. Infinite with fewer than two pairs.

    >>> round(minimum_detectable_difference([0.0, 1.0, -1.0, 0.0] * 18), 3)
    0.235
    """
    n = len(differences)
    if n < 2:
        return math.inf
    scatter = max(variance(differences), 1 / n)
    return (_NORMAL.inv_cdf(1 - level / 2) + _NORMAL.inv_cdf(power)) * math.sqrt(scatter / n)


def spearman(first: Sequence[float], second: Sequence[float], *, confidence: float = 0.95) -> Interval | None:
    """Spearman's rank correlation, ties sharing their mean rank, with the interval of Fieller et al. (1957).

    None with fewer than four pairs or if one side is constant.

    >>> spearman([1, 2, 3, 4], [10, 20, 30, 40]).value
    1.0
    """
    n = len(first)
    if n < 4 or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    value = correlation(_ranks(first), _ranks(second))
    centre = math.atanh(max(-0.999999, min(0.999999, value)))
    half = _NORMAL.inv_cdf((1 + confidence) / 2) * math.sqrt(1.06 / (n - 3))
    return Interval(value, min(value, math.tanh(centre - half)), max(value, math.tanh(centre + half)))


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [(bisect_left(ordered, value) + bisect_right(ordered, value) - 1) / 2 for value in values]


def kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's kappa (1960): agreement of two raters beyond chance. None without pairs or if chance alone always agrees.

    >>> kappa([("yes", "yes"), ("no", "no"), ("yes", "no"), ("no", "yes")])
    0.0
    """
    n = len(pairs)
    if not n:
        return None
    observed = sum(first == second for first, second in pairs) / n
    firsts, seconds = Counter(first for first, _ in pairs), Counter(second for _, second in pairs)
    chance = sum(count * seconds[label] for label, count in firsts.items()) / n**2
    return None if chance == 1 else (observed - chance) / (1 - chance)


def win_share_at_equal_length(shares: Sequence[float], length_differences: Sequence[float]) -> Interval | None:
    """The win share that remains if both replies are equally long (after AlpacaEval 2; Dubois et al. 2024).

    A logistic regression of the share (0 to 1) on tanh of the standardised length difference gives the share at
    difference zero, with the interval of the intercept. It is fitted by Newton's method with a weak ridge penalty, so
    that the estimate stays finite when one side always wins. None with fewer than 8 pairs.
    """
    n = len(shares)
    if n < 8:
        return None
    scale = math.sqrt(math.fsum(d * d for d in length_differences) / n) or 1.0
    lengths = [math.tanh(difference / scale) for difference in length_differences]
    intercept = slope = 0.0
    error = math.inf
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
        error = math.sqrt(c / determinant)
        if max(map(abs, step)) < 1e-9:
            break
    half = _NORMAL.inv_cdf(0.975) * error
    return Interval(_logistic(intercept), _logistic(intercept - half), _logistic(intercept + half))


_RIDGE = 0.05


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
