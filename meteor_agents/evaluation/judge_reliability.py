"""How far judges can be relied on: agreement with themselves, one another and people; length bias; shared families."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean

from meteor_agents.evaluation.human_labels import HumanAgreement
from meteor_agents.evaluation.results import ACCURACY, OVERALL, GradedReply, Statistic
from meteor_agents.evaluation.statistics import proportion, spearman
from meteor_agents.messages import Message
from meteor_agents.method.replies import CRITERIA


class SelfAgreement(Message):
    """The same replies scored a second time by the same judges."""

    questions: int
    same: Statistic
    """Share of single scores that were the same."""
    gap: float
    """Mean distance between the first and the second score, in points."""


class PanelAgreement(Message):
    """Two judges on the same replies."""

    judges: tuple[str, str]
    replies: int
    within_one: float
    """Share of single scores that differ by at most one point."""
    correlation: Statistic | None
    """Spearman's rank correlation of their overall scores."""


class LengthEffect(Message):
    """Whether longer replies score higher, over all students' replies."""

    measure: str
    correlation: Statistic
    """Spearman's rank correlation of a reply's characters with its value."""


class JudgeReliability(Message):
    """What one held-out set says about its own judges."""

    repeats: SelfAgreement | None = None
    panel: tuple[PanelAgreement, ...] = ()
    length: LengthEffect | None = None
    human: tuple[HumanAgreement, ...] = ()
    kinships: tuple[str, ...] = ()
    """Warnings: a judge shares a family with the teacher, the student or another evaluated model."""


def self_agreement(once: Sequence[GradedReply], again: Sequence[GradedReply]) -> SelfAgreement | None:
    """Agreement of two gradings of the same replies, given in the same order; None without scores on both sides."""
    pairs = [
        (first.scores[name], second.scores[name])
        for first, second in zip(once, again, strict=True)
        if first.scores and second.scores
        for name in CRITERIA
    ]
    if not pairs:
        return None
    same = sum(first == second for first, second in pairs)
    return SelfAgreement(
        questions=len(pairs) // len(CRITERIA),
        same=Statistic.of(proportion(same, len(pairs)), len(pairs)),
        gap=fmean(abs(first - second) for first, second in pairs),
    )


def panel_agreements(results: Sequence[GradedReply]) -> tuple[PanelAgreement, ...]:
    """The agreement of every two judges that scored the same replies."""
    names = sorted({name for result in results for name in result.by_judge})
    found = []
    for one, other in combinations(names, 2):
        both = [(r.by_judge[one], r.by_judge[other]) for r in results if one in r.by_judge and other in r.by_judge]
        if not both:
            continue
        close = [abs(a[name] - b[name]) <= 1 for a, b in both for name in CRITERIA]
        ranked = spearman([sum(a.values()) for a, _ in both], [sum(b.values()) for _, b in both])
        found.append(
            PanelAgreement(
                judges=(one, other),
                replies=len(both),
                within_one=sum(close) / len(close),
                correlation=Statistic.of(ranked, len(both)) if ranked else None,
            )
        )
    return tuple(found)


def length_effect(results: Sequence[GradedReply]) -> LengthEffect | None:
    """The effect on the overall score, else on accuracy; None if all replies score the same or are equally long."""
    for measure in (OVERALL, ACCURACY):
        pairs = [(len(r.attempt.text), value) for r in results if (value := r.value(measure)) is not None]
        ranked = spearman([float(length) for length, _ in pairs], [value for _, value in pairs])
        if ranked:
            return LengthEffect(measure=measure, correlation=Statistic.of(ranked, len(pairs)))
    return None
