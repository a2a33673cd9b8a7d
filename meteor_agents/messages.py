"""The typed messages that student, teacher and judge exchange, and the question they talk about."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from meteor_agents.models import FinishReason

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
    """A model's reply."""

    text: str
    """The whole reply, without the thoughts of a reasoning model."""
    model: str
    weights: str
    """The version of the weights that replied."""
    ending: FinishReason = FinishReason.COMPLETE
    """How the reply ended. Only a complete reply is judged or trained on."""


class Guideline(Spoken):
    """Stage 1: what a good answer should consider, as the student sees it. It holds no answer."""

    kind: Literal["guideline"] = "guideline"


class Answer(Spoken):
    """Stage 1: the teacher's answer; `text` is the student's training target."""

    kind: Literal["answer"] = "answer"


class Attempt(Spoken):
    """Stages 2 and 3: the student's reasoning and final answer.

    `ending` and `truncated` agree: an attempt that is given or stored with one of them gets the other as well.
    """

    kind: Literal["attempt"] = "attempt"
    reasoning: str
    answer: str
    truncated: bool = False
    """The reply was cut at its token limit. Older traces hold this and no `ending`."""

    @model_validator(mode="before")
    @classmethod
    def _one_ending(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        if given.get("truncated") and "ending" not in given:
            return {**given, "ending": FinishReason.CUT}
        return {**given, "truncated": given.get("ending") == FinishReason.CUT}


class Status(StrEnum):
    """A judge's finding. ERROR means that there is no verdict: it gives no score and no training example."""

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
    """Who judged: a model's name, `verifier:<name>`, or, for a reply that no one judged since it is not complete, how it
    ended: `max_tokens` for a cut one, else the name of its ending."""


class Guide(Message):
    """What the next try sees: what was wrong, and a hint towards what is right."""

    kind: Literal["guide"] = "guide"
    explanation: str
    guide: str
    model: str


class Decoded(Message):
    """How one reply of a preference pair was decoded, and at what cost."""

    strategy: str
    weights: str
    """The version of the weights that replied."""
    calls: int
    input_tokens: int | None
    output_tokens: int | None
    """Tokens of all calls together; None where the server did not say."""
    flops: float | None
    """Estimated forward FLOPs of the student: 2 x parameters x tokens. Beam search counts each token once per beam; a
    judge's work is not counted. None where tokens or parameters are not known."""
    scores: tuple[float | None, ...] = ()
    """The score of each candidate: 1 or 0, a judge's mean score, a mean log-likelihood, or a share of votes."""
    chosen: int = 0
    """The index of the chosen candidate in `scores`."""

    def sentence(self) -> str:
        """One line for a reader: the strategy, the choice, the calls and the FLOPs."""
        among = f", number {self.chosen + 1} of {len(self.scores)}" if self.scores else ""
        flops = "" if self.flops is None else f", about {self.flops:.2g} FLOPs"
        return f"{self.strategy}{among}, {self.calls} calls{flops}"


class Dropped(StrEnum):
    """Why a preference pair is not trained on."""

    CUT = "cut at max_tokens"
    INCOMPLETE = "refused, filtered or broken off"
    EQUAL = "equal"
    NEARLY_EQUAL = "nearly equal"
    LENGTHS = "lengths too far apart"
    UNVERIFIED = "not verified"


class Lineage(Message):
    """How both replies of a preference pair were decoded, and why it was dropped if it was: its trace's last message."""

    kind: Literal["lineage"] = "lineage"
    low: Decoded
    high: Decoded
    dropped: Dropped | None = None

    def sentences(self) -> list[str]:
        """Lines for a reader: how both replies were decoded, and why the pair is not trained on."""
        sides = [f"low: {self.low.sentence()}", f"high: {self.high.sentence()}"]
        return [*sides, f"dropped: {self.dropped}"] if self.dropped else sides


AnyMessage = Annotated[Guideline | Answer | Attempt | Verdict | Guide | Lineage, Field(discriminator="kind")]
