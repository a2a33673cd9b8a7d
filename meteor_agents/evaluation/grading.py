"""Grading one reply: exactly by a verifier, by five criteria by model judges, or both. Only a complete reply is judged."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from meteor_agents.evaluation.results import GradedReply
from meteor_agents.messages import Attempt, Question, Status
from meteor_agents.method.agents import Student
from meteor_agents.method.conversations import UNJUDGED
from meteor_agents.method.judges import Judge, JudgeReply, ModelJudge
from meteor_agents.method.replies import CRITERIA, SCORES_SCHEMA, parse_justification, parse_scores
from meteor_agents.models import Occasion, SamplingParams

EVALUATE = "evaluate"
"""The stage of an evaluation's calls."""


@dataclass(frozen=True, slots=True)
class Panel:
    """Those who grade a reply: a verifier, one or several model judges by name, or both."""

    verifier: Judge | None = None
    judges: Mapping[str, ModelJudge] = field(default_factory=dict)

    @classmethod
    def of(cls, judge: Judge, name: str = "judge", more: Mapping[str, ModelJudge] | None = None) -> Panel:
        """The run's own judge, called `name` if it is a model, and the model judges that only evaluate."""
        if isinstance(judge, ModelJudge):
            return cls(judges={name: judge, **(more or {})})
        return cls(judge, more or {})


async def ask_and_grade(
    question: Question,
    student: Student,
    panel: Judge | Panel,
    *,
    sampling: SamplingParams,
    stage: str = EVALUATE,
) -> GradedReply:
    """Ask the student one question and have its reply graded. Raises `ModelError` if a model gives no reply."""
    attempt = await student.attempt(question, stage=stage, sampling=sampling)
    return await grade(question, attempt, panel if isinstance(panel, Panel) else Panel.of(panel), stage=stage)


async def grade(
    question: Question, attempt: Attempt, panel: Panel, *, stage: str = EVALUATE, asking: int = 1
) -> GradedReply:
    """The panel's grades of one reply. With `asking=2` every judge is asked anew: stored replies are not reused.

    A reply that is not complete is not judged: it gets no score, and where there is a verifier, one that was cut,
    refused or filtered is wrong. One that the server broke off has status ERROR, and its question stays owed.

    Raises `ModelError` if a model judge gives no reply. A reply that cannot be read is no error: it counts as `unread`.
    """
    if (unjudged := UNJUDGED.get(attempt.ending)) is not None:
        status = unjudged.status if panel.verifier else Status.ERROR
        return GradedReply(
            asked=fingerprint(question), attempt=attempt, status=status, explanation=unjudged.explanation
        )
    graded = {name: await _grades(question, attempt, judge, stage, asking) for name, judge in panel.judges.items()}
    given = {name: found for name, found in graded.items() if found.scores}
    verdict = await panel.verifier.evaluate(question, attempt, stage=stage) if panel.verifier else None
    justified = " ".join(found.justification for found in given.values())
    if verdict is None:
        status = Status.CORRECT if given else Status.ERROR
        explanation = justified or "the judge's reply holds no readable scores"
    else:
        status, explanation = verdict.status, " ".join(filter(None, (verdict.explanation, justified)))
    return GradedReply(
        asked=fingerprint(question),
        attempt=attempt,
        status=status,
        explanation=explanation,
        scores=_averaged([found.scores for found in given.values()]) if given else None,
        by_judge={name: found.scores for name, found in given.items()} if len(graded) > 1 else {},
        verified=verdict is not None and bool(given),
        unread=len(graded) - len(given),
    )


class _Grades(NamedTuple):
    scores: dict[str, float]
    """Empty when the reply could not be read."""
    justification: str


async def _grades(question: Question, attempt: Attempt, judge: ModelJudge, stage: str, asking: int) -> _Grades:
    occasion = Occasion(stage, question.id, asking)
    return await judge.ask(
        "judge_score", question, _read_grades, lambda found: bool(found.scores), occasion, SCORES_SCHEMA, answer=attempt
    )


def _read_grades(reply: JudgeReply) -> _Grades:
    return _Grades(parse_scores(reply.text, reply.quoted) or {}, parse_justification(reply.text, reply.quoted))


def _averaged(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(given[name] for given in scores) / len(scores) for name in CRITERIA}


def fingerprint(question: Question) -> str:
    """A hash of everything in the question, 16 hexadecimal digits."""
    return hashlib.sha256(question.model_dump_json().encode()).hexdigest()[:16]


def is_graded(reply: GradedReply | None, question: Question) -> bool:
    """Whether there is a reply to the question as it reads now, graded by the whole panel."""
    if reply is None or reply.asked != fingerprint(question):
        return False
    if (unjudged := UNJUDGED.get(reply.attempt.ending)) is not None:
        return unjudged.status is not Status.ERROR
    return reply.status is not Status.ERROR and not reply.unread
