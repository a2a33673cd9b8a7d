"""How good a checkpoint is on the held-out questions: exact with a verifier, by five criteria with a model judge.

A judge's error is counted apart and never scores; every figure comes with its interval and its n.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, TypeAdapter

from .agents import Judge, ModelJudge, Student
from .messages import Attempt, Message, Question, Status
from .models import SamplingParams
from .replies import CRITERIA, parse_comparison, parse_scores
from .statistics import Interval, mean, proportion

EVALUATE = "evaluate"


class Result(Message):
    """One model's reply to one held-out question, and what the judge made of it."""

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


async def examine(question: Question, student: Student, judge: Judge, *, sampling: SamplingParams) -> Result:
    """Ask and judge one held-out question; greedy unless `sampling` says otherwise."""
    attempt = await student.attempt(question, stage=EVALUATE, sampling=sampling)
    if isinstance(judge, ModelJudge):
        reply = await judge.ask("judge_score", question, stage=EVALUATE, answer=attempt)
        scores = parse_scores(reply)
        if scores is None:
            return Result(attempt=attempt, status=Status.ERROR, explanation=f"no readable scores: {reply[:200]!r}")
        return Result(attempt=attempt, status=Status.CORRECT, scores=scores)
    verdict = await judge.evaluate(question, attempt, stage=EVALUATE)
    return Result(attempt=attempt, status=verdict.status, explanation=verdict.explanation)


def summarise(results: Sequence[Result]) -> Metrics:
    """Figures over one held-out set."""
    judged = [result for result in results if result.status is not Status.ERROR]
    metrics = Metrics(
        questions=len(results),
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


async def compare(question: Question, judge: ModelJudge, without: Attempt, with_: Attempt) -> dict[str, float] | None:
    """The share of `with_` by criterion, judged in both orders: a win only where both agree, else half.

    1 is a win, 0 a loss, 0.5 a tie or a disagreement between the orders (negative sign marks the latter: -0.5).
    None when one of the two replies could not be read.
    """
    forth = parse_comparison(await judge.ask("judge_compare", question, stage=EVALUATE, first=without, second=with_))
    back = parse_comparison(await judge.ask("judge_compare", question, stage=EVALUATE, first=with_, second=without))
    if forth is None or back is None:
        return None
    mirrored = {"A": "B", "B": "A", "tie": "tie"}
    shares = {}
    for criterion in CRITERIA:
        if forth[criterion] != mirrored[back[criterion]]:
            shares[criterion] = -0.5
        else:
            shares[criterion] = {"A": 0.0, "B": 1.0, "tie": 0.5}[forth[criterion]]
    return shares


def summarise_comparison(found: Sequence[dict[str, float] | None]) -> Shares:
    read = [shares for shares in found if shares is not None]
    with_ = {
        criterion: Estimate.of(mean([abs(shares[criterion]) for shares in read]), len(read)) for criterion in CRITERIA
    }
    flipped = sum(share < 0 for shares in read for share in shares.values())
    return Shares(
        questions=len(found), judge_errors=len(found) - len(read), flipped=flipped, with_=with_ if read else {}
    )
