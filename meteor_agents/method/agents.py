"""Student, teacher and judge: each a template, a model and a parser, with no knowledge of stores or servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar

from meteor_agents.messages import Answer, Attempt, Guide, Guideline, Question, Status, Verdict
from meteor_agents.method.replies import VERDICT_SCHEMA, parse_verdict, split_answer
from meteor_agents.method.templates import Templates
from meteor_agents.models import (
    ChatMessage,
    Completion,
    FinishReason,
    Likelihood,
    Occasion,
    SamplingParams,
    Speaker,
    Usage,
)
from meteor_agents.traces import Turn
from meteor_agents.verifiers import ComparesAnswers, Verifier

READINGS = 2
"""How often a judge is asked before its reply counts as unreadable."""

Parsed = TypeVar("Parsed")




@dataclass(frozen=True, slots=True)
class Voice:
    """What every agent that speaks through a model has."""

    speaker: Speaker
    templates: Templates
    domain: str
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class Said:
    """An attempt, and the tokens of the call that made it."""

    attempt: Attempt
    usage: Usage


class Student:
    """The model that is being taught. `in_one_chat`: it revises as the next turn of one chat, not by a prompt of its own."""

    def __init__(self, voice: Voice, *, in_one_chat: bool = False) -> None:
        self._voice = voice
        self._in_one_chat = in_one_chat

    async def guideline(self, question: Question, *, stage: str) -> Guideline:
        """What an expert should consider when answering; not the answer (stage 1)."""
        messages = self._voice.templates.render("student_guideline", domain=self._voice.domain, question=question)
        reply = await self._voice.speaker.complete(messages, self._voice.sampling, Occasion(stage, question.id))
        return Guideline(text=reply.text, model=reply.model, weights=reply.weights)

    async def attempt(
        self,
        question: Question,
        history: Sequence[Turn] = (),
        *,
        stage: str,
        sampling: SamplingParams | None = None,
    ) -> Attempt:
        """Reasoning and answer; with a history, a revision that sees the last attempt, what was wrong and the guide.

        With a seed, each try has its own: a mistake that is made twice gives the same prompt twice, and with one seed it
        would be made for ever.
        """
        number = len(history) + 1
        reply = await self._voice.speaker.complete(
            self.revise_prompt(question, history) if history else self.prompt(question),
            _drawn(sampling or self._voice.sampling, number),
            Occasion(stage, question.id, number),
        )
        return _attempt(reply)

    async def decode(self, question: Question, sampling: SamplingParams, *, stage: str, sample: int = 1) -> Said:
        """An attempt as `sampling` says; `sample` tells several of one prompt apart, from 1 on."""
        occasion = Occasion(stage, question.id, sample)
        reply = await self._voice.speaker.complete(self.prompt(question), _drawn(sampling, sample), occasion)
        return Said(_attempt(reply), reply.usage)

    async def critique(self, question: Question, draft: Attempt, sampling: SamplingParams, *, stage: str) -> Completion:
        """What the student itself finds wrong with its draft."""
        messages = self._voice.templates.render(
            "student_critique", domain=self._voice.domain, question=question, attempt=draft
        )
        return await self._voice.speaker.complete(messages, sampling, Occasion(stage, question.id))

    async def redraft(
        self, question: Question, draft: Attempt, critique: str, sampling: SamplingParams, *, stage: str
    ) -> Said:
        """A new reply with the draft and the critique in view."""
        messages = self._voice.templates.render(
            "student_redraft", domain=self._voice.domain, question=question, previous=draft, critique=critique
        )
        reply = await self._voice.speaker.complete(messages, sampling, Occasion(stage, question.id))
        return Said(_attempt(reply), reply.usage)

    async def likelihood(self, question: Question, attempt: Attempt, *, stage: str) -> tuple[Likelihood, Usage]:
        """How likely the student finds an attempt. Raises `ModelError` when its model does not say it."""
        messages = (*self.prompt(question), ChatMessage(role="assistant", content=attempt.text))
        scoring = SamplingParams(temperature=0, top_p=1, max_tokens=1, score=True)
        reply = await self._voice.speaker.complete(messages, scoring, Occasion(stage, question.id))
        return Likelihood.read(reply.text, reply.model), reply.usage

    def as_judge(self) -> ModelJudge:
        """The student as a judge of replies, greedy. It is not shown the reference."""
        sampling = self._voice.sampling.model_copy(update={"temperature": 0.0, "top_p": 1.0, "seed": None})
        return SelfJudge(replace(self._voice, sampling=sampling))

    def prompt(self, question: Question) -> tuple[ChatMessage, ...]:
        """The messages that ask the question: those of every first attempt and of every training example."""
        return self._voice.templates.render("student_attempt", domain=self._voice.domain, question=question)

    def revise_prompt(self, question: Question, history: Sequence[Turn]) -> tuple[ChatMessage, ...]:
        if self._in_one_chat:
            return self.chat_prompt(question, history)
        return self._about(history[-1], "student_revise", question, turns=tuple(history))

    def chat_prompt(self, question: Question, history: Sequence[Turn]) -> tuple[ChatMessage, ...]:
        """The question, then every try and what was said about it."""
        messages = list(self.prompt(question))
        for turn in history:
            messages += [self.said(turn.attempt), *self._about(turn, "student_feedback", question)]
        return tuple(messages)

    @staticmethod
    def said(attempt: Attempt) -> ChatMessage:
        return ChatMessage(role="assistant", content=attempt.text)

    def _about(self, turn: Turn, template: str, question: Question, **more: object) -> tuple[ChatMessage, ...]:
        attempt, verdict, guide = turn
        return self._voice.templates.render(
            template,
            domain=self._voice.domain,
            question=question,
            previous=attempt,
            explanation=guide.explanation if guide else verdict.explanation,
            guide=guide.guide if guide else verdict.guide,
            **more,
        )


def _drawn(sampling: SamplingParams, number: int) -> SamplingParams:
    """The same sampling for the draw or try of that number, from 1 on: seeded, each has a seed of its own."""
    if sampling.seed is None or sampling.temperature == 0 or number == 1:
        return sampling
    return sampling.model_copy(update={"seed": sampling.seed + number - 1})


def _attempt(reply: Completion) -> Attempt:
    parts = split_answer(reply.text)
    return Attempt(
        text=reply.text,
        reasoning=parts.reasoning,
        answer=parts.answer,
        truncated=reply.finish_reason is FinishReason.CUT,
        model=reply.model,
        weights=reply.weights,
    )


class Teacher(Protocol):
    """Answers for the student to learn from, and guides for it to try again."""

    async def answer(self, question: Question, guideline: Guideline | None, *, stage: str) -> Answer | None:
        """None when the teacher has no answer or it was cut off at its token limit."""
        ...

    async def guide(self, question: Question, attempt: Attempt, verdict: Verdict, *, stage: str, tries: int) -> Guide:
        """What to do differently, without giving the answer away."""
        ...


class ModelTeacher:
    """A teacher that is a language model."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice

    async def answer(self, question: Question, guideline: Guideline | None, *, stage: str) -> Answer | None:
        messages = self._voice.templates.render(
            "teacher_answer", domain=self._voice.domain, question=question, guideline=guideline
        )
        reply = await self._voice.speaker.complete(messages, self._voice.sampling, Occasion(stage, question.id))
        if reply.finish_reason is FinishReason.CUT or not reply.text.strip():
            return None
        return Answer(text=reply.text, model=reply.model, weights=reply.weights)

    async def guide(self, question: Question, attempt: Attempt, verdict: Verdict, *, stage: str, tries: int) -> Guide:
        messages = self._voice.templates.render(
            "teacher_guide",
            domain=self._voice.domain,
            question=question,
            attempt=attempt,
            explanation=verdict.explanation,
        )
        occasion = Occasion(stage, question.id, tries)
        reply = await self._voice.speaker.complete(messages, self._voice.sampling, occasion)
        return Guide(explanation=verdict.explanation, guide=reply.text.strip(), model=reply.model)


class Judge(Protocol):
    """Says whether an attempt is right, why, and what to do about it."""

    @property
    def free(self) -> bool:
        """A judgement costs no model call."""
        ...

    async def evaluate(self, question: Question, attempt: Attempt, *, stage: str, tries: int = 1) -> Verdict: ...


class ModelJudge:
    """A judge that is a language model. A reply that cannot be read is asked for once more, and is then an error."""

    free = False

    def __init__(self, voice: Voice) -> None:
        self._voice = voice

    async def evaluate(self, question: Question, attempt: Attempt, *, stage: str, tries: int = 1) -> Verdict:
        return await self.ask(
            "judge_verdict",
            question,
            partial(parse_verdict, quoted=(question.question, attempt.text)),
            lambda verdict: verdict.status is not Status.ERROR,
            Occasion(stage, question.id, tries),
            VERDICT_SCHEMA,
            attempt=attempt,
        )

    async def ask(
        self,
        template: str,
        question: Question,
        parse: Callable[[str, str], Parsed],
        readable: Callable[[Parsed], bool],
        occasion: Occasion,
        schema: str,
        **variables: object,
    ) -> Parsed:
        """The parsed reply to one of the judge's templates; `parse` gets the reply's text and the judge's name.

        `schema` is the JSON schema of a readable reply. A reply that was cut off would be cut off again: it is not asked
        for a second time.
        """
        sampling = self._voice.sampling.model_copy(update={"json_schema": schema})
        messages = self._voice.templates.render(template, domain=self._voice.domain, question=question, **variables)
        parsed = None
        for again in range(READINGS):
            reply = await self._voice.speaker.complete(messages, sampling, replace(occasion, again=again))
            parsed = parse(reply.text, reply.model)
            if readable(parsed) or reply.finish_reason is FinishReason.CUT:
                break
        assert parsed is not None
        return parsed


class SelfJudge(ModelJudge):
    """The student judging itself, out of what it knows: without the reference."""

    async def evaluate(self, question: Question, attempt: Attempt, *, stage: str, tries: int = 1) -> Verdict:
        alone = question.model_copy(update={"reference": None, "reasoning": None})
        return await super().evaluate(alone, attempt, stage=stage, tries=tries)


class VerifierJudge:
    """A judge without a model: the verifier runs in a thread, so that a slow check does not hold the loop."""

    free = True

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier

    async def evaluate(self, question: Question, attempt: Attempt, *, stage: str, tries: int = 1) -> Verdict:
        return await asyncio.to_thread(self._verifier.verify, question, attempt.answer)

    async def view(self, question: Question, answer: str) -> str | None:
        """The answer as the verifier sees it; None where it cannot say."""
        if not isinstance(self._verifier, ComparesAnswers):
            return None
        return await asyncio.to_thread(self._verifier.view, question, answer)
