"""Graded replies to held-out questions, and the figures that summarise them.

A reply that the judge could not grade is counted on its own and never scores. Every figure has a 95 % interval and its n.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Self

from pydantic import Field, ValidationError, field_validator

from meteor_agents.errors import StoreError
from meteor_agents.evaluation.statistics import Interval, mean, proportion
from meteor_agents.messages import Attempt, Message, Status
from meteor_agents.method.replies import CRITERIA
from meteor_agents.safe_text import clean

ACCURACY = "accuracy (verifier)"
"""The share of replies that a verifier found correct."""
OVERALL = "overall"
"""The mean of the five criteria."""
MEASURES = (ACCURACY, *CRITERIA, OVERALL)
"""Everything that a graded reply can have a value for."""


class GradedReply(Message):
    """One student's reply to one held-out question, and what the panel made of it."""

    asked: str
    """A hash of the question as it was asked, so that an edited question is asked again."""
    attempt: Attempt
    status: Status
    """The verifier's verdict; INCORRECT for a reply that was cut, refused or filtered.

    Without a verifier: CORRECT if a judge gave scores, ERROR if none did.
    """
    explanation: str = ""
    """The verifier's explanation, or the judges' justification of their scores."""
    scores: dict[str, float] | None = None
    """The five criteria, 1 to 10, averaged over the judges that could be read; None if none could."""
    by_judge: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Judge -> its scores, where there are several judges."""
    verified: bool = False
    """Whether judges gave scores and `status` still comes from a verifier."""
    unread: int = 0
    """Number of model judges whose reply held no readable scores."""

    @field_validator("explanation", mode="after")
    @classmethod
    def _storable(cls, text: str) -> str:
        return clean(text)

    @property
    def overall(self) -> float | None:
        """The mean of the five criteria; None without scores."""
        return sum(self.scores.values()) / len(self.scores) if self.scores else None

    @property
    def correct(self) -> float | None:
        """1 or 0 by a verifier; None without a verifier or without its verdict."""
        if self.status is Status.ERROR or (self.scores is not None and not self.verified):
            return None
        return float(self.status is Status.CORRECT)

    def value(self, measure: str) -> float | None:
        """The value of one of `MEASURES`; None if this reply has none."""
        if measure == ACCURACY:
            return self.correct
        return self.overall if measure == OVERALL else (self.scores or {}).get(measure)


def read_graded_reply(stored: str, question_id: str) -> GradedReply:
    """The graded reply that the store keeps as JSON. Raises `StoreError` if the text is damaged."""
    try:
        return GradedReply.model_validate_json(stored)
    except ValidationError as error:
        raise StoreError(
            f"the stored result of held-out question {question_id!r} is damaged ({first_problem(error)}): restore run.db "
            "from a copy, or delete this row from its table `scores` and run `meteor evaluate` again"
        ) from error


def first_problem(error: ValidationError) -> str:
    """The first of pydantic's complaints in one line: `field: problem`."""
    first = error.errors(include_url=False)[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))


class Statistic(Message):
    """A measured value with its 95 % interval and the number of observations."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, interval: Interval, n: int) -> Self:
        """The interval of `n` observations as a value that can be stored."""
        return cls(value=interval.value, low=interval.low, high=interval.high, n=n)

    def formatted(self, *, share: bool) -> str:
        """The value and its interval, as a percentage or as a score with two decimals.

        >>> Statistic(value=0.5, low=0.25, high=0.75, n=8).formatted(share=True)
        '50.0% [25.0%, 75.0%]'
        """
        form = ".1%" if share else ".2f"
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"


class Metrics(Message):
    """The figures of one student on one held-out set."""

    questions: int
    failed: int
    """Questions without a reply; left out of every figure."""
    judge_errors: int
    """Complete replies without a verdict; left out of every figure."""
    truncated: int
    """Replies cut off at max_tokens: wrong by a verifier, and without a model judge's score."""
    incomplete: int = 0
    """Other replies that are not whole (refused, filtered, broken off), which count in the same way."""
    accuracy: Statistic | None = None
    """Share of correct replies (verifier)."""
    criteria: dict[str, Statistic] = Field(default_factory=dict)
    """Mean score by criterion, and `overall` (model judge)."""
    near_training: int = 0
    """Questions that nearly repeat a training question."""
    apart: Statistic | None = None
    """The main figure without the questions that nearly repeat a training question; None if there are none of either."""

    @property
    def main(self) -> Statistic | None:
        """Accuracy if a verifier gave it, else the overall score; None if nothing was graded."""
        return self.accuracy or self.criteria.get(OVERALL)

    def headline(self) -> str:
        """The main figure with its interval, or "no verdict"; and how many replies are not complete."""
        figure = self.main.formatted(share=self.accuracy is not None) if self.main else "no verdict"
        unscored = 0 if self.accuracy else self.truncated + self.incomplete
        return f"{figure} ({unscored} of {self.questions} not complete)" if unscored else figure


def summarise(
    replies: Mapping[str, GradedReply], *, asked: int, near_training: Collection[str] = ()
) -> Metrics:
    """The figures of one student on a held-out set of `asked` questions, from its graded replies by question id.

    `near_training` holds the ids of questions that nearly repeat a training question. The figures depend on the set of
    replies only, not on the order in which they came in.
    """
    statistics = {measure: _statistic(measure, replies.values()) for measure in MEASURES}
    main = next((measure for measure in (ACCURACY, OVERALL) if statistics[measure]), None)
    near = [id_ for id_ in replies if id_ in near_training]
    others = [reply for id_, reply in replies.items() if id_ not in near_training]
    return Metrics(
        questions=asked,
        failed=asked - len(replies),
        judge_errors=sum(
            reply.status is Status.ERROR and not reply.scores and reply.attempt.ending.complete
            for reply in replies.values()
        ),
        truncated=sum(reply.attempt.truncated for reply in replies.values()),
        incomplete=sum(not (reply.attempt.ending.complete or reply.attempt.truncated) for reply in replies.values()),
        accuracy=statistics[ACCURACY],
        criteria={name: found for name in (*CRITERIA, OVERALL) if (found := statistics[name]) is not None},
        near_training=len(near),
        apart=_statistic(main, others) if main and near and others else None,
    )


def _statistic(measure: str, replies: Iterable[GradedReply]) -> Statistic | None:
    values = [value for reply in replies if (value := reply.value(measure)) is not None]
    if not values:
        return None
    interval = proportion(round(sum(values)), len(values)) if measure == ACCURACY else mean(values)
    return Statistic.of(interval, len(values))
