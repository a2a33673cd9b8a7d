"""How good a checkpoint is on the held-out questions: exact with a verifier, by five criteria with a model judge.

A judge's error is counted apart and never scores; every figure comes with its interval and its n.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import Field, TypeAdapter

from .agents import Judge, ModelJudge, Occasion, Student
from .messages import Attempt, Message, Question, Status
from .models import SamplingParams
from .replies import COMPARISON_SCHEMA, CRITERIA, SCORES_SCHEMA, parse_comparison, parse_scores
from .statistics import Interval, mean, proportion

EVALUATE = "evaluate"


class Result(Message):
    """One model's reply to one held-out question, and what the judge made of it."""

    asked: str
    """A hash of the question as it was asked, so that an edited question is asked again."""
    attempt: Attempt
    status: Status
    explanation: str = ""
    scores: dict[str, int] | None = None
    """The five criteria, 1 to 10; None with a verifier or when the judge gave none."""


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

    def headline(self) -> str:
        if self.accuracy is not None:
            return f"{self.accuracy.value:.1%} [{self.accuracy.low:.1%}, {self.accuracy.high:.1%}]"
        overall = self.criteria.get("overall")
        return f"{overall.value:.2f} [{overall.low:.2f}, {overall.high:.2f}]" if overall else "no verdict"


RESULT = TypeAdapter(Result)


async def examine(
    question: Question, student: Student, judge: Judge, *, sampling: SamplingParams, stage: str = EVALUATE
) -> Result:
    """Ask and judge one question."""
    attempt = await student.attempt(question, stage=stage, sampling=sampling)
    if isinstance(judge, ModelJudge):
        occasion = Occasion(stage, question.id)
        scores = await judge.ask("judge_score", question, _read_scores, bool, occasion, SCORES_SCHEMA, answer=attempt)
        if not scores:
            return _result(question, attempt, Status.ERROR, "the judge's reply holds no readable scores")
        return Result(asked=fingerprint(question), attempt=attempt, status=Status.CORRECT, scores=scores)
    verdict = await judge.evaluate(question, attempt, stage=stage)
    return _result(question, attempt, verdict.status, verdict.explanation)


def fingerprint(question: Question) -> str:
    return hashlib.sha256(question.model_dump_json().encode()).hexdigest()[:16]


def is_scored(result: Result | None, question: Question) -> bool:
    """There is a result, with a verdict, for the question as it reads now."""
    return result is not None and result.status is not Status.ERROR and result.asked == fingerprint(question)


def _result(question: Question, attempt: Attempt, status: Status, explanation: str) -> Result:
    return Result(asked=fingerprint(question), attempt=attempt, status=status, explanation=explanation)


def _read_scores(text: str, judge: str) -> dict[str, int]:
    return parse_scores(text) or {}


def summarise(results: Sequence[Result], *, asked: int) -> Metrics:
    """Figures over one held-out set of `asked` questions."""
    judged = [result for result in results if result.status is not Status.ERROR]
    metrics = Metrics(
        questions=asked,
        failed=asked - len(results),
        judge_errors=len(results) - len(judged),
        truncated=sum(result.attempt.truncated for result in results),
    )
    scored = [result.scores for result in judged if result.scores is not None]
    if scored:
        by_criterion = {name: [float(scores[name]) for scores in scored] for name in CRITERIA}
        by_criterion["overall"] = [sum(scores.values()) / len(CRITERIA) for scores in scored]
        criteria = {name: Estimate.of(mean(values), len(values)) for name, values in by_criterion.items()}
        return metrics.model_copy(update={"criteria": criteria})
    if not judged:
        return metrics
    correct = sum(result.status is Status.CORRECT for result in judged)
    return metrics.model_copy(update={"accuracy": Estimate.of(proportion(correct, len(judged)), len(judged))})


class Shares(Message):
    """Pairwise win shares by criterion; `with_` + `without` = 1, a tie being half to each."""

    questions: int
    judge_errors: int
    flipped: int
    """Single verdicts that changed when the order of the two replies was swapped, over all criteria."""
    with_: dict[str, Estimate]


class Preference(NamedTuple):
    """What both orders together say on one criterion."""

    share: float
    """Of the reply of interest: 1 where both orders prefer it, 0 where both prefer the other, else one half."""
    flipped: bool
    """The two orders disagree."""


async def compare(question: Question, judge: ModelJudge, without: Attempt, with_: Attempt) -> dict[str, Preference]:
    """Two replies judged in both orders, by criterion; empty when the judge could not be read."""
    occasion = Occasion(EVALUATE, question.id)
    forth = await judge.ask(
        "judge_compare", question, _read_comparison, bool, occasion, COMPARISON_SCHEMA, first=without, second=with_
    )
    back = await judge.ask(
        "judge_compare", question, _read_comparison, bool, occasion, COMPARISON_SCHEMA, first=with_, second=without
    )
    if not forth or not back:
        return {}
    return {criterion: _preference(forth[criterion], back[criterion]) for criterion in CRITERIA}


def _read_comparison(text: str, judge: str) -> dict[str, str]:
    return parse_comparison(text) or {}


def _preference(forth: str, back: str) -> Preference:
    """`forth` is the winner with the reply of interest as B, `back` with it as A."""
    if forth != {"A": "B", "B": "A", "tie": "tie"}[back]:
        return Preference(0.5, flipped=True)
    return Preference({"A": 0.0, "B": 1.0, "tie": 0.5}[forth], flipped=False)


def summarise_comparison(found: Sequence[dict[str, Preference]]) -> Shares:
    read = [preferences for preferences in found if preferences]
    with_ = {name: Estimate.of(mean([p[name].share for p in read]), len(read)) for name in CRITERIA} if read else {}
    flipped = sum(preference.flipped for preferences in read for preference in preferences.values())
    return Shares(questions=len(found), judge_errors=len(found) - len(read), flipped=flipped, with_=with_)
