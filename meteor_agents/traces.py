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
    ACCEPTED = "accepted"
    """Ended with something to train on."""
    EXHAUSTED = "exhausted"
    """Ended properly without it: every try was judged incorrect, or a pair had no preference. Never trained on."""
    FAILED = "failed"
    """Could not be finished: a model or the judge gave no usable reply. Asked again until its stage is done."""


class Turn(NamedTuple):
    """One try: the attempt, the verdict on it, and the guide that the next try sees, if there was one."""

    attempt: Attempt
    verdict: Verdict
    guide: Guide | None


class Trace(Message):
    """One conversation. The stored part is `messages`; the rest is read from them."""

    stage: str
    question: Question
    messages: tuple[AnyMessage, ...]
    outcome: Outcome
    error: str | None = None
    """Why a trace failed."""

    @property
    def turns(self) -> list[Turn]:
        """Attempts with their verdicts and guides, first to last; an attempt that was never judged is left out."""
        turns: list[Turn] = []
        attempt: Attempt | None = None
        for message in self.messages:
            if isinstance(message, Attempt):
                attempt = message
            elif isinstance(message, Verdict) and attempt is not None:
                turns.append(Turn(attempt, message, None))
            elif isinstance(message, Guide) and turns:
                turns[-1] = turns[-1]._replace(guide=message)
        return turns

    @property
    def attempts(self) -> list[Attempt]:
        return [message for message in self.messages if isinstance(message, Attempt)]

    @property
    def accepted_attempt(self) -> Attempt | None:
        """The attempt that the judge found correct."""
        if self.outcome is not Outcome.ACCEPTED:
            return None
        return next((turn.attempt for turn in self.turns if turn.verdict.status is Status.CORRECT), None)

    @property
    def tries(self) -> int:
        return len(self.attempts)

    @property
    def guideline(self) -> Guideline | None:
        return next((message for message in self.messages if isinstance(message, Guideline)), None)

    @property
    def answer(self) -> Answer | None:
        return next((message for message in self.messages if isinstance(message, Answer)), None)

    @property
    def lineage(self) -> Lineage | None:
        """Stage 3: where the pair comes from."""
        return next((message for message in self.messages if isinstance(message, Lineage)), None)

    @property
    def weights(self) -> list[str]:
        """The weights versions that spoke as student, in order, each once."""
        spoken = [m.weights for m in self.messages if isinstance(m, Spoken) and not isinstance(m, Answer)]
        return list(dict.fromkeys(spoken))
