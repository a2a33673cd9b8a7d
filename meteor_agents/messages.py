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


AnyMessage = Annotated[Guideline | Answer | Attempt | Verdict | Guide, Field(discriminator="kind")]
