"""Speakers for an estimate: a stored reply is used, any other reply is imagined and counted as a call.

The method's own code runs with the run's own templates, so an estimate cannot differ from what a run will ask.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from meteor_agents.calls.keys import call_key
from meteor_agents.messages import Attempt, Question, Status, Verdict
from meteor_agents.method.conversations import REFINE
from meteor_agents.method.judges import Judge
from meteor_agents.method.replies import CRITERIA, SCORES_SCHEMA
from meteor_agents.models import ChatMessage, Completion, FinishReason, Likelihood, Occasion, SamplingParams, Usage
from meteor_agents.pipeline.cast import RoleModel
from meteor_agents.store.records import Records

IMAGINED = "imagined"
"""The weights version of an imagined reply."""
CHARACTERS_PER_WORD = 5

VERDICTS, SCORES, COMPARISONS = "verdicts", "scores", "comparisons"
"""The kinds of judgement that a judge is asked for."""


@dataclass(slots=True)
class Expected:
    """Calls of one model, as expected values."""

    calls: float = 0.0
    reused: float = 0.0
    input_tokens: float = 0.0
    output_tokens: float = 0.0


@dataclass(slots=True)
class Rehearsal:
    """The state of a rehearsal. Its conversations are held one after another."""

    records: Records
    wrong_share: float
    """The share of attempts that a judge finds incorrect."""
    expected: dict[str, Expected] = field(default_factory=lambda: defaultdict(Expected))
    weights: tuple[str, ...] = ()
    """Versions of the student whose stored replies count now; empty while its weights are unknown."""
    asked_for: str = VERDICTS
    scale: float = 1.0
    """How many conversations the current one stands for."""
    likelihood: float = 1.0
    """The probability that the current conversation gets this far."""

    def begin(self, scale: float) -> None:
        """Begin a conversation that stands for `scale` conversations."""
        self.scale, self.likelihood = scale, 1.0

    @property
    def weight(self) -> float:
        """The weight of the next call in the expected values."""
        return self.scale * self.likelihood

    def verdict_was_imagined(self) -> None:
        """Continue as if it were "incorrect", and weight the rest by how often that happens."""
        self.likelihood *= self.wrong_share


class RehearsedSpeaker:
    """A role's model: the stored reply if there is one, else an imagined one of the expected length.

    Its calls are counted in `expected`. `tokens` counts the tokens of a text; `reply_tokens` gives the expected tokens of a
    reply, from its stage and `max_tokens`.
    """

    def __init__(
        self,
        model: RoleModel,
        rehearsal: Rehearsal,
        expected: Expected,
        tokens: Callable[[str], float],
        reply_tokens: Callable[[str, int], float],
    ) -> None:
        self._role = model.role
        self._identity = model.settings.identity
        self._options = model.settings.deciding_options
        self._rehearsal = rehearsal
        self._expected = expected
        self._tokens = tokens
        self._reply_tokens = reply_tokens
        self._said = 0

    async def complete(
        self, messages: Sequence[ChatMessage], sampling: SamplingParams, occasion: Occasion
    ) -> Completion:
        """The stored reply, or an imagined one, which is counted as a call."""
        rehearsal, expected = self._rehearsal, self._expected
        if (stored := self._stored(messages, sampling, occasion)) is not None:
            expected.reused += rehearsal.weight
            return stored
        said = self._reply_tokens(occasion.stage, sampling.max_tokens)
        expected.calls += rehearsal.weight
        expected.input_tokens += rehearsal.weight * sum(self._tokens(message.content) for message in messages)
        expected.output_tokens += rehearsal.weight * said
        if self._role == "judge" and occasion.stage == REFINE:
            rehearsal.verdict_was_imagined()
        return Completion(self._text(said, sampling), FinishReason.COMPLETE, Usage(), self._identity, IMAGINED)

    def _stored(
        self, messages: Sequence[ChatMessage], sampling: SamplingParams, occasion: Occasion
    ) -> Completion | None:
        if self._role == "student" and not self._rehearsal.weights:
            return None
        # Replies of a model that is not trained are stored under its name; that includes a student on a server.
        versions = (*self._rehearsal.weights, self._identity) if self._role == "student" else (self._identity,)
        said = [(message.role, message.content) for message in messages]
        key = call_key(self._role, self._identity, said, sampling, occasion.tries, occasion.again, self._options)
        return self._rehearsal.records.find_call(key, versions, sampling.max_tokens)

    def _text(self, tokens: float, sampling: SamplingParams) -> str:
        """A text unlike all others, because equal replies would end a conversation of stage 3."""
        if sampling.score:
            return Likelihood(-1.0, 1).written()
        self._said += 1
        words = f"{self._said:04d} " * max(1, round(tokens * 4 / CHARACTERS_PER_WORD))
        if sampling.json_schema is None:
            return words
        asked_for = SCORES if sampling.json_schema == SCORES_SCHEMA else self._rehearsal.asked_for
        return _judgement(asked_for, words)


def _judgement(asked_for: str, words: str) -> str:
    if asked_for == VERDICTS:
        half = words[: len(words) // 2]
        return json.dumps({"status": "incorrect", "explanation": half, "guide": half})
    finding: int | str = 5 if asked_for == SCORES else "tie"
    return json.dumps({"justification": words, **dict.fromkeys(CRITERIA, finding)})


class RehearsedVerifier:
    """A judge without a model: it judges real attempts, and imagines verdicts on imagined ones."""

    free = True

    def __init__(self, judge: Judge, rehearsal: Rehearsal) -> None:
        self._judge = judge
        self._rehearsal = rehearsal

    async def evaluate(self, question: Question, attempt: Attempt, *, stage: str, tries: int = 1) -> Verdict:
        """The verifier's verdict on a real attempt, an imagined one on an imagined attempt."""
        if attempt.weights != IMAGINED:
            return await self._judge.evaluate(question, attempt, stage=stage, tries=tries)
        if stage == REFINE:
            self._rehearsal.verdict_was_imagined()
        words = "word " * 20
        return Verdict(status=Status.INCORRECT, explanation=words, guide=words, model=IMAGINED)
