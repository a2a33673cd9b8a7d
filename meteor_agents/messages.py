"""The typed messages that student, teacher and judge exchange, and the question they talk about."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Message(BaseModel):
    """A value that is stored: immutable, and read back equal to what was written."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Question(Message):
    """One row of the user's data."""

    id: Text
    question: Text
    title: str | None = None
    reference: str | None = None
    """The known final answer, where there is one: what a verifier compares with."""
    reasoning: str | None = None
    """A short worked reasoning that leads to `reference`; the `reference` backend teaches with it."""
    metadata: dict[str, Any] = Field(default_factory=dict)


class Spoken(Message):
    """A message that a model spoke."""

    text: str
    """The whole reply, as it was received."""
    model: str
    weights: str
    """The weights version that spoke it."""


class Guideline(Spoken):
    """Stage 1: what the student says should be considered in an answer; it does not answer."""

    kind: Literal["guideline"] = "guideline"


class Answer(Spoken):
    """Stage 1: the teacher's answer; `text` is the student's training target."""

    kind: Literal["answer"] = "answer"


class Attempt(Spoken):
    """Stages 2 and 3: the student's reasoning and final answer."""

    kind: Literal["attempt"] = "attempt"
    reasoning: str
    answer: str
    truncated: bool = False
    """The reply ended at the token limit."""


class Status(StrEnum):
    """What a judge found. ERROR means that there is no verdict: never a score, never a training example."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    ERROR = "error"


class Verdict(Message):
    """The judge's finding on one attempt."""

    kind: Literal["verdict"] = "verdict"
    status: Status
    explanation: str = ""
    """Why, for the student and for a reader."""
    guide: str = ""
    """What to do about it, without giving the answer away. Empty when the judge gave none."""
    model: str
    """The judge: a model's name, `verifier:<name>`, or `max_tokens` for a reply that was cut there."""


class Guide(Message):
    """What the next try sees: the explanation of what was wrong and a hint towards what is right."""

    kind: Literal["guide"] = "guide"
    explanation: str
    guide: str
    model: str


class Decoded(Message):
    """How one side of a pair came about."""

    strategy: str
    weights: str
    """The weights version that spoke it."""
    calls: int
    input_tokens: int | None
    output_tokens: int | None
    """Of all calls together; None where the server did not say."""
    flops: float | None
    """Estimated: 2 x parameters x tokens that went through the student, forward. A beam counts its tokens once a beam; a
    judge's work is not counted. None where tokens or parameters are not known."""
    scores: tuple[float | None, ...] = ()
    """Of each candidate that was chosen from: 1 or 0, a judge's mean score, a mean log-likelihood, a share of votes."""
    chosen: int = 0
    """Which of them this is."""

    def sentence(self) -> str:
        among = f", number {self.chosen + 1} of {len(self.scores)}" if self.scores else ""
        flops = "" if self.flops is None else f", about {self.flops:.2g} FLOPs"
        return f"{self.strategy}{among}, {self.calls} calls{flops}"


class Dropped(StrEnum):
    """Why a pair is not trained on."""

    CUT = "cut at max_tokens"
    EQUAL = "equal"
    NEARLY_EQUAL = "nearly equal"
    LENGTHS = "lengths too far apart"
    UNVERIFIED = "not verified"


class Lineage(Message):
    """Where a pair comes from; the last message of its trace."""

    kind: Literal["lineage"] = "lineage"
    low: Decoded
    high: Decoded
    dropped: Dropped | None = None

    def sentences(self) -> list[str]:
        """For a reader: how both sides came about, and why the pair is not trained on."""
        sides = [f"low: {self.low.sentence()}", f"high: {self.high.sentence()}"]
        return [*sides, f"dropped: {self.dropped}"] if self.dropped else sides


AnyMessage = Annotated[Guideline | Answer | Attempt | Verdict | Guide | Lineage, Field(discriminator="kind")]
