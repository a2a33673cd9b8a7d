"""What separates two students on the same questions: the paired difference, its interval, a test, and what n can show."""

from __future__ import annotations

import math
from collections.abc import Mapping

from meteor_agents.evaluation.grading import MEASURES, Estimate, Result
from meteor_agents.evaluation.statistics import paired_difference, sign_flip_test, smallest_difference
from meteor_agents.messages import Message

_UNITS = 60
"""Scores are means of up to so many equal parts: whole numbers of them for the exact test."""


class Difference(Message):
    """`after` less `before` in one measure, over the questions that both have a figure for."""

    before: str
    after: str
    measure: str
    difference: Estimate
    p: float
    """Two-sided, exact: how often chance signs would put the mean as far from zero."""
    smallest: float
    """The smallest true difference that so many questions show four times out of five."""


def differences(before: str, after: str, old: Mapping[str, Result], new: Mapping[str, Result]) -> list[Difference]:
    """One for each measure that both students have, from their results by question id."""
    found = []
    for measure in MEASURES:
        both = [(old[id_].value(measure), new[id_].value(measure)) for id_ in old if id_ in new]
        pairs = [(a, b) for a, b in both if a is not None and b is not None]
        if len(pairs) < 2:
            continue
        olds, news = zip(*pairs, strict=True)
        gaps = [b - a for a, b in pairs]
        found.append(
            Difference(
                before=before,
                after=after,
                measure=measure,
                difference=Estimate.of(paired_difference(olds, news), len(pairs)),
                p=sign_flip_test([round(gap * _UNITS) for gap in gaps]),
                smallest=_rounded(smallest_difference(gaps)),
            )
        )
    return found


def _rounded(value: float) -> float:
    """Four digits are more than it means."""
    return float(f"{value:.4g}") if math.isfinite(value) else value
