"""How far an evaluation can be trusted: judges against themselves, one another and people; length; kinship."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from meteor_agents.evaluation.grading import ACCURACY, OVERALL, Estimate, Result
from meteor_agents.evaluation.human_labels import Agreement
from meteor_agents.evaluation.statistics import proportion, spearman
from meteor_agents.messages import Message
from meteor_agents.method.replies import CRITERIA


class Repeats(Message):
    """The same replies scored a second time by the same judges."""

    questions: int
    same: Estimate
    """Share of single scores that were the same."""
    gap: float
    """Mean distance of two scores, in points."""


class PanelAgreement(Message):
    """Two judges on the same replies."""

    judges: tuple[str, str]
    replies: int
    within_one: float
    """Share of single scores that differ by at most one point."""
    correlation: Estimate | None
    """Spearman's, of their overall scores."""


class LengthEffect(Message):
    """Whether longer replies score higher, over all checkpoints' replies."""

    measure: str
    correlation: Estimate
    """Spearman's, of the reply's characters with its score."""


class Trust(Message):
    """What one held-out set says about its own judges."""

    repeats: Repeats | None = None
    panel: tuple[PanelAgreement, ...] = ()
    length: LengthEffect | None = None
    human: tuple[Agreement, ...] = ()
    kinships: tuple[str, ...] = ()
    """Warnings: a judge of the teacher's, the student's or another evaluated model's family."""


def repeats(once: Sequence[Result], again: Sequence[Result]) -> Repeats | None:
    """From the results of the same replies, in the same order; None without scores on both sides."""
    pairs = [
        (first.scores[name], second.scores[name])
        for first, second in zip(once, again, strict=True)
        if first.scores and second.scores
        for name in CRITERIA
    ]
    if not pairs:
        return None
    same = sum(first == second for first, second in pairs)
    return Repeats(
        questions=len(pairs) // len(CRITERIA),
        same=Estimate.of(proportion(same, len(pairs)), len(pairs)),
        gap=sum(abs(first - second) for first, second in pairs) / len(pairs),
    )


def panel_agreements(results: Sequence[Result]) -> tuple[PanelAgreement, ...]:
    """One for each two judges that scored the same replies."""
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
                correlation=Estimate.of(ranked, len(both)) if ranked else None,
            )
        )
    return tuple(found)


def length_effect(results: Sequence[Result]) -> LengthEffect | None:
    """None where all replies score the same, or are equally long."""
    for measure in (OVERALL, ACCURACY):
        pairs = [(len(r.attempt.text), value) for r in results if (value := r.value(measure)) is not None]
        ranked = spearman([float(length) for length, _ in pairs], [value for _, value in pairs])
        if ranked:
            return LengthEffect(measure=measure, correlation=Estimate.of(ranked, len(pairs)))
    return None


def by_checkpoint(results: Mapping[str, Mapping[str, Result]]) -> list[Result]:
    """All results of all checkpoints, label -> question id -> result."""
    return [result for found in results.values() for result in found.values()]
