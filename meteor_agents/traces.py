"""The record of one conversation: everything that was said about one question in one stage, and how it ended."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from meteor_agents.messages import (
    Answer,
    AnyMessage,
    Attempt,
    Guide,
    Guideline,
    Lineage,
    Message,
    Question,
    Spoken,
    Status,
    Verdict,
)


class Outcome(StrEnum):
    """How a conversation ended."""

    ACCEPTED = "accepted"
    """It ended with something to train on."""
    TAUGHT = "taught"
    """Every try was judged incorrect, and the teacher's answer correct. That answer trains the student."""
    EXHAUSTED = "exhausted"
    """It ended without: every try was judged incorrect, or a pair had no preference. Never trained on."""
    FAILED = "failed"
    """It could not be finished: a model or the judge gave no usable reply. Asked again until its stage is done."""


TRAINS = (Outcome.ACCEPTED, Outcome.TAUGHT)
"""Outcomes of traces that train the student."""


class Turn(NamedTuple):
    """One try: the attempt, the verdict on it, and the guide that the next try sees, if there was one."""

    attempt: Attempt
    verdict: Verdict
    guide: Guide | None


class Trace(Message):
    """One conversation. What is stored is `messages`; the properties read them.

    Example:
        >>> question = Question(id="q1", question="What is 6 x 7?")
        >>> said = Attempt(text="Answer: 42", model="pupil", weights="v1", reasoning="", answer="42")
        >>> right = Verdict(status=Status.CORRECT, model="verifier:numeric")
        >>> trace = Trace(stage="refine", question=question, messages=(said, right), outcome=Outcome.ACCEPTED)
        >>> trace.tries, trace.accepted_attempt.answer
        (1, '42')
    """

    stage: str
    question: Question
    messages: tuple[AnyMessage, ...]
    outcome: Outcome
    error: str | None = None
    """Why a trace failed."""

    @property
    def turns(self) -> list[Turn]:
        """Attempts with their verdicts and guides, first to last, without an attempt that was never judged."""
        turns: list[Turn] = []
        attempt: Attempt | None = None
        for message in self.messages:
            if isinstance(message, Attempt):
                attempt = message
            elif isinstance(message, Answer):
                attempt = None  # a verdict that follows is on the teacher's answer
            elif isinstance(message, Verdict) and attempt is not None:
                turns.append(Turn(attempt, message, None))
            elif isinstance(message, Guide) and turns:
                turns[-1] = turns[-1]._replace(guide=message)
        return turns

    @property
    def attempts(self) -> list[Attempt]:
        """All attempts, first to last; in stage 3, the low-compute one, then the high-compute one."""
        return [message for message in self.messages if isinstance(message, Attempt)]

    @property
    def accepted_attempt(self) -> Attempt | None:
        """The attempt that the judge found correct."""
        if self.outcome is not Outcome.ACCEPTED:
            return None
        return next((turn.attempt for turn in self.turns if turn.verdict.status is Status.CORRECT), None)

    @property
    def tries(self) -> int:
        """How many attempts there were."""
        return len(self.attempts)

    @property
    def guideline(self) -> Guideline | None:
        """Stage 1: the student's guideline, if there is one."""
        return next((message for message in self.messages if isinstance(message, Guideline)), None)

    @property
    def answer(self) -> Answer | None:
        """The teacher's answer, if there is one: in stage 1, and in a taught trace of stage 2. In a failed trace it may be
        incomplete."""
        return next((message for message in self.messages if isinstance(message, Answer)), None)

    @property
    def lineage(self) -> Lineage | None:
        """Stage 3: how both replies of the pair were decoded."""
        return next((message for message in self.messages if isinstance(message, Lineage)), None)

    @property
    def weights(self) -> list[str]:
        """The versions of the student's weights that replied, in order, each once."""
        spoken = [m.weights for m in self.messages if isinstance(m, Spoken) and not isinstance(m, Answer)]
        return list(dict.fromkeys(spoken))
