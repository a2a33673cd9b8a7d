"""The judge: a model, the student itself, or a verifier."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple, Protocol, TypeVar

from meteor_agents.errors import UnrecordedCallError
from meteor_agents.messages import Attempt, Question, Spoken, Status, Verdict
from meteor_agents.method.replies import VERDICT_SCHEMA, parse_verdict
from meteor_agents.method.voice import Voice
from meteor_agents.models import FinishReason, Occasion, SamplingParams
from meteor_agents.verifiers import ComparesAnswers, Verifier

READINGS = 2
"""How often a judge is asked before its reply counts as unreadable. Stored replies, which an earlier command could not read,
do not count where the judge `asks_anew`."""
MOST_READINGS = 8
"""Replies to one call, stored ones included, after which the judge is not asked again."""
NOT_ASKED_AGAIN = (FinishReason.CUT, FinishReason.REFUSED, FinishReason.FILTERED)
"""A judge's reply that ended so would end so again."""

Parsed = TypeVar("Parsed")


class Judge(Protocol):
    """Says whether an attempt is right, why, and what to do about it."""

    @property
    def free(self) -> bool:
        """Whether a judgement costs no model call."""
        ...

    async def evaluate(self, question: Question, attempt: Attempt, *, stage: str, tries: int = 1) -> Verdict:
        """The verdict on an attempt. `tries` tells several attempts of one question apart, from 1 on."""
        ...


class JudgeReply(NamedTuple):
    """A model judge's reply, as a parser gets it."""

    text: str
    """Empty when the reply is not complete: nothing is read from a part of one."""
    model: str
    quoted: tuple[str, ...]
    """The texts that the judge was asked about. What it only repeats from them does not count as its finding."""
    ending: FinishReason


class ModelJudge:
    """A judge that is a language model. A reply that cannot be read is asked for once more, and is then an error.

    `asks_anew`: whether that is done again for a call whose stored replies could not be read.
    """

    free = False

    def __init__(self, voice: Voice, *, asks_anew: bool = True) -> None:
        self._voice = voice
        self._asks_anew = asks_anew

    async def evaluate(self, question: Question, attempt: Attempt, *, stage: str, tries: int = 1) -> Verdict:
        """The model's verdict; of status ERROR, with the reason, when its reply cannot be read or is not complete."""
        return await self.ask(
            "judge_verdict",
            question,
            _verdict,
            lambda verdict: verdict.status is not Status.ERROR,
            Occasion(stage, question.id, tries),
            VERDICT_SCHEMA,
            attempt=attempt,
        )

    async def ask(
        self,
        template: str,
        question: Question,
        parse: Callable[[JudgeReply], Parsed],
        readable: Callable[[Parsed], bool],
        occasion: Occasion,
        schema: str,
        **variables: object,
    ) -> Parsed:
        """The parsed reply to one of the judge's templates, which gets `variables`.

        `schema` is the JSON schema of a readable reply. Of a reply that stays unreadable, what `parse` makes of it.
        """
        sampling = _holding(self._voice.sampling, schema)
        messages = self._voice.prompt(template, question=question, **variables)
        quoted = (*_texts(question), *(spoken.text for spoken in variables.values() if isinstance(spoken, Spoken)))
        read: list[Parsed] = []
        asked = 0
        while True:
            try:
                again = replace(occasion, again=len(read)) if read else occasion
                reply = await self._voice.complete(messages, again, sampling)
            except UnrecordedCallError:  # a replay, whose run asked no further
                if len(read) < READINGS:
                    raise
                return read[-1]
            text = reply.text if reply.finish_reason.complete else ""
            read.append(parse(JudgeReply(text, reply.model, quoted, reply.finish_reason)))
            asked += not (reply.reused and self._asks_anew)
            enough = asked == READINGS or len(read) == MOST_READINGS
            if readable(read[-1]) or reply.finish_reason in NOT_ASKED_AGAIN or enough:
                return read[-1]


@lru_cache(maxsize=64)
def _holding(sampling: SamplingParams, schema: str) -> SamplingParams:
    """The sampling, held to a JSON schema."""
    return sampling.model_copy(update={"json_schema": schema})


def _verdict(reply: JudgeReply) -> Verdict:
    if not reply.ending.complete:
        return Verdict(status=Status.ERROR, explanation=f"the judge's reply {reply.ending.told}", model=reply.model)
    return parse_verdict(reply.text, reply.model, reply.quoted)


def _texts(value: object) -> list[str]:
    """Every text of a question, its metadata included."""
    if isinstance(value, Question):
        return [text for _, part in value for text in _texts(part)]
    if isinstance(value, dict):
        return [text for part in value.values() for text in _texts(part)]
    if isinstance(value, list | tuple):
        return [text for part in value for text in _texts(part)]
    return [value] if isinstance(value, str) else []


class SelfJudge(ModelJudge):
    """The student judging itself from what it knows: it is not shown the reference."""

    async def evaluate(self, question: Question, attempt: Attempt, *, stage: str, tries: int = 1) -> Verdict:
        """The student's verdict on an attempt of its own, as `ModelJudge.evaluate` gives it."""
        alone = question.model_copy(update={"reference": None, "reasoning": None})
        return await super().evaluate(alone, attempt, stage=stage, tries=tries)


class VerifierJudge:
    """A judge without a model. The verifier runs in a thread, so that a slow check does not hold the event loop."""

    free = True

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier

    async def evaluate(self, question: Question, attempt: Attempt, *, stage: str, tries: int = 1) -> Verdict:
        """What the verifier finds of the attempt's final answer."""
        return await asyncio.to_thread(self._verifier.verify, question, attempt.answer)

    async def view(self, question: Question, answer: str) -> str | None:
        """The answer as the verifier sees it, equal for equal answers; None where it cannot say."""
        if not isinstance(self._verifier, ComparesAnswers):
            return None
        return await asyncio.to_thread(self._verifier.view, question, answer)
