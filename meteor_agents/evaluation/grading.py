"""How good a checkpoint is on the held-out questions: exact with a verifier, by five criteria with a model judge.

A judge's error is counted apart and never scores; every figure comes with its interval and its n.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import Field, TypeAdapter

from meteor_agents.evaluation.statistics import Interval, mean, proportion
from meteor_agents.messages import Attempt, Message, Question, Status
from meteor_agents.method.agents import Student
from meteor_agents.method.judges import Judge, JudgeReply, ModelJudge
from meteor_agents.method.replies import CRITERIA, SCORES_SCHEMA, parse_justification, parse_scores
from meteor_agents.models import Occasion, SamplingParams

EVALUATE = "evaluate"
OVERALL = "overall"
"""The mean of the five criteria."""


@dataclass(frozen=True, slots=True)
class Panel:
    """Who says how good a reply is: a verifier, one or several model judges by name, or both."""

    verifier: Judge | None = None
    judges: Mapping[str, ModelJudge] = field(default_factory=dict)

    @classmethod
    def of(cls, judge: Judge, name: str = "judge", more: Mapping[str, ModelJudge] | None = None) -> Panel:
        """The run's judge and those that only evaluate."""
        if isinstance(judge, ModelJudge):
            return cls(judges={name: judge, **(more or {})})
        return cls(judge, more or {})


class Result(Message):
    """One model's reply to one held-out question, and what the judge made of it."""

    asked: str
    """A hash of the question as it was asked, so that an edited question is asked again."""
    attempt: Attempt
    status: Status
    """The verifier's finding. Without one: CORRECT where a judge gave scores, ERROR where none did."""
    explanation: str = ""
    """The verifier's, or the judge's justification of its scores."""
    scores: dict[str, float] | None = None
    """The five criteria, 1 to 10, the mean of the judges that gave them; None where none did."""
    by_judge: dict[str, dict[str, float]] = Field(default_factory=dict)
    """With several judges: the scores of each."""
    verified: bool = False
    """`status` is a verifier's, beside the scores."""
    unread: int = 0
    """Model judges that gave no readable scores."""

    @property
    def overall(self) -> float | None:
        return sum(self.scores.values()) / len(self.scores) if self.scores else None

    @property
    def correct(self) -> float | None:
        """1 or 0 by a verifier; None without one, or without a verdict."""
        if self.status is Status.ERROR or (self.scores is not None and not self.verified):
            return None
        return float(self.status is Status.CORRECT)

    def value(self, measure: str) -> float | None:
        """`accuracy` by a verifier, `overall` or one of the criteria; None where this result has none."""
        if measure == ACCURACY:
            return self.correct
        return self.overall if measure == OVERALL else (self.scores or {}).get(measure)


ACCURACY = "accuracy (verifier)"


class Estimate(Message):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, interval: Interval, n: int) -> Estimate:
        return cls(value=interval.value, low=interval.low, high=interval.high, n=n)


class Metrics(Message):
    """What one evaluation found on one held-out set."""

    questions: int
    failed: int
    """Questions that the student gave no reply to; left out of every figure."""
    judge_errors: int
    """Replies without a verdict; left out of every figure."""
    truncated: int
    """Replies cut at max_tokens."""
    accuracy: Estimate | None = None
    """Share of correct replies (verifier)."""
    criteria: dict[str, Estimate] = Field(default_factory=dict)
    """Mean score by criterion, and `overall` (model judge)."""
    near_training: int = 0
    """Questions that nearly repeat one of the training set (`overlap`)."""
    apart: Estimate | None = None
    """The first figure (accuracy, else overall) over the other questions; None where there are none of either kind."""

    def headline(self) -> str:
        first = self.accuracy or self.criteria.get(OVERALL)
        return figure(first, share=self.accuracy is not None) if first else "no verdict"


def figure(estimate: Estimate, share: bool) -> str:
    """An estimate with its interval, as a share of 100 % or as a score."""
    form = ".1%" if share else ".2f"
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


RESULT = TypeAdapter(Result)


async def examine(
    question: Question,
    student: Student,
    panel: Judge | Panel,
    *,
    sampling: SamplingParams,
    stage: str = EVALUATE,
) -> Result:
    """Ask and judge one question."""
    attempt = await student.attempt(question, stage=stage, sampling=sampling)
    return await grade(question, attempt, panel if isinstance(panel, Panel) else Panel.of(panel), stage=stage)


async def grade(
    question: Question, attempt: Attempt, panel: Panel, *, stage: str = EVALUATE, asking: int = 1
) -> Result:
    """What the panel makes of one reply. `asking` 2 asks every judge anew, past what it said the first time."""
    graded = {name: await _graded(question, attempt, judge, stage, asking) for name, judge in panel.judges.items()}
    given = {name: found for name, found in graded.items() if found.scores}
    result = Result(
        asked=fingerprint(question),
        attempt=attempt,
        status=Status.CORRECT if given else Status.ERROR,
        explanation=" ".join(found.justification for found in given.values())
        or "the judge's reply holds no readable scores",
        scores=_averaged([found.scores for found in given.values()]) if given else None,
        by_judge={name: found.scores for name, found in given.items()} if len(graded) > 1 else {},
        unread=len(graded) - len(given),
    )
    if panel.verifier is None:
        return result
    verdict = await panel.verifier.evaluate(question, attempt, stage=stage)
    said = " ".join(filter(None, (verdict.explanation, result.explanation if given else "")))
    return result.model_copy(update={"status": verdict.status, "explanation": said, "verified": bool(given)})


class _Graded(NamedTuple):
    scores: dict[str, float]
    """Empty when the reply could not be read."""
    justification: str


async def _graded(question: Question, attempt: Attempt, judge: ModelJudge, stage: str, asking: int) -> _Graded:
    occasion = Occasion(stage, question.id, asking)
    return await judge.ask(
        "judge_score", question, _read_grades, lambda found: bool(found.scores), occasion, SCORES_SCHEMA, answer=attempt
    )


def _read_grades(reply: JudgeReply) -> _Graded:
    return _Graded(parse_scores(reply.text, reply.quoted) or {}, parse_justification(reply.text, reply.quoted))


def _averaged(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(given[name] for given in scores) / len(scores) for name in CRITERIA}


def fingerprint(question: Question) -> str:
    return hashlib.sha256(question.model_dump_json().encode()).hexdigest()[:16]


def is_scored(result: Result | None, question: Question) -> bool:
    """There is a result, with every verdict, for the question as it reads now."""
    if result is None or result.asked != fingerprint(question):
        return False
    return result.status is not Status.ERROR and not result.unread


def summarise(results: Mapping[str, Result], *, asked: int, near_training: Collection[str] = ()) -> Metrics:
    """Figures over one held-out set of `asked` questions, from the results by question id.

    `near_training` are the ids of the questions that nearly repeat one of the training set.
    """
    judged = [result for result in results.values() if result.status is not Status.ERROR or result.scores]
    estimates = {measure: _estimate(measure, list(results.values())) for measure in MEASURES}
    first = next((measure for measure in (ACCURACY, OVERALL) if estimates[measure]), None)
    near = [id_ for id_ in results if id_ in near_training]
    others = [result for id_, result in results.items() if id_ not in near_training]
    return Metrics(
        questions=asked,
        failed=asked - len(results),
        judge_errors=len(results) - len(judged),
        truncated=sum(result.attempt.truncated for result in results.values()),
        accuracy=estimates[ACCURACY],
        criteria={name: found for name in (*CRITERIA, OVERALL) if (found := estimates[name]) is not None},
        near_training=len(near),
        apart=_estimate(first, others) if first and near and others else None,
    )


MEASURES = (ACCURACY, *CRITERIA, OVERALL)


def _estimate(measure: str, results: Sequence[Result]) -> Estimate | None:
    values = [value for result in results if (value := result.value(measure)) is not None]
    if not values:
        return None
    interval = proportion(round(sum(values)), len(values)) if measure == ACCURACY else mean(values)
    return Estimate.of(interval, len(values))
