"""Student and teacher, and the judges of judges.py: each a prompt, a model and a parser, without a store or a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from meteor_agents.errors import ModelError
from meteor_agents.messages import Answer, Attempt, Guide, Guideline, Question, Verdict
from meteor_agents.method.judges import Judge, JudgeReply, ModelJudge, SelfJudge, VerifierJudge
from meteor_agents.method.replies import read_attempt
from meteor_agents.method.student_prompts import StudentPrompts, said
from meteor_agents.method.voice import Voice
from meteor_agents.models import Completion, FinishReason, Likelihood, Occasion, SamplingParams, Usage
from meteor_agents.traces import Turn

__all__ = [
    "Judge",
    "JudgeReply",
    "ModelJudge",
    "ModelTeacher",
    "Said",
    "SelfJudge",
    "Student",
    "Teacher",
    "VerifierJudge",
    "Voice",
]


@dataclass(frozen=True, slots=True)
class Said:
    """An attempt, and the tokens of the call that made it."""

    attempt: Attempt
    usage: Usage


class Student:
    """The model that is being taught.

    `in_one_chat`: a revision is the next turn of one chat instead of a prompt of its own (`StudentPrompts`).
    """

    def __init__(self, voice: Voice, *, in_one_chat: bool = False) -> None:
        self._voice = voice
        self.prompts = StudentPrompts(voice.templates, voice.domain, in_one_chat=in_one_chat)
        """What it is asked: for its attempts, and in the rows that it trains on."""

    async def guideline(self, question: Question, *, stage: str) -> Guideline:
        """What an expert should consider when answering (stage 1)."""
        messages = self._voice.prompt("student_guideline", question=question)
        reply = await self._voice.complete(messages, Occasion(stage, question.id))
        return Guideline(text=reply.text, model=reply.model, weights=reply.weights, ending=reply.finish_reason)

    async def attempt(
        self,
        question: Question,
        history: Sequence[Turn] = (),
        *,
        stage: str,
        sampling: SamplingParams | None = None,
        number: int | None = None,
    ) -> Attempt:
        """Reasoning and answer; with a history, a revision that sees the last attempt, what was wrong and the guide.

        `number` counts the tries, from 1 on; by default, one more than the history has.

        With a seed, each try gets its own. The same mistake made twice gives the same prompt twice, and with one seed the
        student would repeat it to the last try.
        """
        number = number or len(history) + 1
        reply = await self._voice.complete(
            self.prompts.revise(question, history) if history else self.prompts.attempt(question),
            Occasion(stage, question.id, number),
            _drawn(sampling or self._voice.sampling, number),
        )
        return _attempt(reply)

    async def decode(self, question: Question, sampling: SamplingParams, *, stage: str, sample: int = 1) -> Said:
        """An attempt decoded as `sampling` says. `sample` tells several of one prompt apart, from 1 on."""
        occasion = Occasion(stage, question.id, sample)
        reply = await self._voice.complete(self.prompts.attempt(question), occasion, _drawn(sampling, sample))
        return Said(_attempt(reply), reply.usage)

    async def critique(self, question: Question, draft: Attempt, sampling: SamplingParams, *, stage: str) -> Completion:
        """What the student finds wrong with its own draft.

        Raises `ModelError` when the reply was refused, filtered or broken off; one that was cut is used as far as it goes.
        """
        messages = self._voice.prompt("student_critique", question=question, attempt=draft)
        reply = await self._voice.complete(messages, Occasion(stage, question.id), sampling)
        if reply.finish_reason not in (FinishReason.COMPLETE, FinishReason.CUT):
            raise ModelError(f"{reply.model}: the student's critique of its draft {reply.finish_reason.told}")
        return reply

    async def redraft(
        self, question: Question, draft: Attempt, critique: str, sampling: SamplingParams, *, stage: str
    ) -> Said:
        """A new attempt that sees the draft and the critique."""
        messages = self._voice.prompt("student_redraft", question=question, previous=draft, critique=critique)
        reply = await self._voice.complete(messages, Occasion(stage, question.id), sampling)
        return Said(_attempt(reply), reply.usage)

    async def likelihood(self, question: Question, attempt: Attempt, *, stage: str) -> tuple[Likelihood, Usage]:
        """How likely the student finds an attempt. Raises `ModelError` when its model cannot tell."""
        messages = (*self.prompts.attempt(question), said(attempt))
        scoring = SamplingParams(temperature=0, top_p=1, max_tokens=1, score=True)
        reply = await self._voice.speaker.complete(messages, scoring, Occasion(stage, question.id))
        return Likelihood.read(reply.text, reply.model), reply.usage

    def as_judge(self) -> ModelJudge:
        """The student as a judge of its own replies: greedy, and not shown the reference."""
        sampling = self._voice.sampling.model_copy(update={"temperature": 0.0, "top_p": 1.0, "seed": None})
        return SelfJudge(replace(self._voice, sampling=sampling))


def _drawn(sampling: SamplingParams, number: int) -> SamplingParams:
    """The sampling for draw or try `number`, from 1 on: with a seed, each draw gets its own."""
    if sampling.seed is None or sampling.temperature == 0 or number == 1:
        return sampling
    return sampling.model_copy(update={"seed": sampling.seed + number - 1})


def _attempt(reply: Completion) -> Attempt:
    return read_attempt(reply.text, model=reply.model, weights=reply.weights, ending=reply.finish_reason)


class Teacher(Protocol):
    """Gives answers for the student to learn from, and guides for its next try."""

    async def answer(self, question: Question, guideline: Guideline | None, *, stage: str) -> Answer | None:
        """The answer, which is to be used only if its `ending` is complete; None when the teacher has none."""
        ...

    async def guide(self, question: Question, attempt: Attempt, verdict: Verdict, *, stage: str, tries: int) -> Guide:
        """What to do differently, without giving the answer away."""
        ...


class ModelTeacher:
    """A teacher that is a language model."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice

    async def answer(self, question: Question, guideline: Guideline | None, *, stage: str) -> Answer | None:
        """The model's answer, which may be empty or incomplete."""
        messages = self._voice.prompt("teacher_answer", question=question, guideline=guideline)
        reply = await self._voice.complete(messages, Occasion(stage, question.id))
        return Answer(text=reply.text, model=reply.model, weights=reply.weights, ending=reply.finish_reason)

    async def guide(self, question: Question, attempt: Attempt, verdict: Verdict, *, stage: str, tries: int) -> Guide:
        """The model's guide; the judge's own, under the judge's name, where the model's is empty or not complete."""
        messages = self._voice.prompt(
            "teacher_guide", question=question, attempt=attempt, explanation=verdict.explanation
        )
        reply = await self._voice.complete(messages, Occasion(stage, question.id, tries))
        if not reply.finish_reason.complete or not reply.text.strip():
            return Guide(explanation=verdict.explanation, guide=verdict.guide, model=verdict.model)
        return Guide(explanation=verdict.explanation, guide=reply.text.strip(), model=reply.model)
