"""Paired differences between two students on the same questions: interval, exact test, minimum detectable difference."""

from __future__ import annotations

import math
from collections.abc import Mapping

from meteor_agents.evaluation.results import MEASURES, GradedReply, Statistic
from meteor_agents.evaluation.statistics import minimum_detectable_difference, paired_difference, sign_flip_test
from meteor_agents.messages import Message

_UNITS = 60
"""A score is a mean of at most this many equal parts. Counted in parts it is a whole number, as the exact test needs."""


class PairedDifference(Message):
    """`after` minus `before` in one measure, over the questions for which both students have a value."""

    before: str
    after: str
    measure: str
    difference: Statistic
    p: float
    """Two-sided exact p of the sign-flip test."""
    smallest: float
    """The minimum detectable difference (p < 0.05 with 80 % power) for this many questions."""


def paired_differences(
    before: str, after: str, old: Mapping[str, GradedReply], new: Mapping[str, GradedReply]
) -> list[PairedDifference]:
    """One difference for each measure that both students have, from their graded replies by question id."""
    found = []
    for measure in MEASURES:
        both = [(old[id_].value(measure), new[id_].value(measure)) for id_ in old if id_ in new]
        pairs = [(a, b) for a, b in both if a is not None and b is not None]
        if len(pairs) < 2:
            continue
        olds, news = zip(*pairs, strict=True)
        gaps = [b - a for a, b in pairs]
        found.append(
            PairedDifference(
                before=before,
                after=after,
                measure=measure,
                difference=Statistic.of(paired_difference(olds, news), len(pairs)),
                p=sign_flip_test([round(gap * _UNITS) for gap in gaps]),
                smallest=_rounded(minimum_detectable_difference(gaps)),
            )
        )
    return found


def _rounded(value: float) -> float:
    """Four digits are more than it means."""
    return float(f"{value:.4g}") if math.isfinite(value) else value
