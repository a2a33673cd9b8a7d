"""Strategies that follow one line of drafts: a single call, and self-revision."""

from __future__ import annotations

from dataclasses import dataclass

from meteor_agents.messages import Question
from meteor_agents.method.agents import Student
from meteor_agents.method.decoding.strategy import Choice, Cost, cost_of
from meteor_agents.models import SamplingParams


@dataclass(frozen=True, slots=True)
class Single:
    """One call: greedy, a sample, beam search, or contrastive decoding."""

    name: str
    sampling: SamplingParams
    prompt_passes: float = 1
    reply_passes: float = 1
    """How often each token of the reply is computed, in forward passes of the student."""

    async def decode(self, question: Question, student: Student, *, stage: str) -> Choice:
        """The reply to one call."""
        said = await student.decode(question, self.sampling, stage=stage)
        cost = Cost.of(said.usage, prompt_passes=self.prompt_passes, reply_passes=self.reply_passes)
        return Choice(said.attempt, cost)


@dataclass(frozen=True, slots=True)
class Revise:
    """A draft, then for some rounds the student's own critique of it and a new draft."""

    name: str
    sampling: SamplingParams
    rounds: int

    async def decode(self, question: Question, student: Student, *, stage: str) -> Choice:
        """The last draft. Its cost includes every draft and critique."""
        said = await student.decode(question, self.sampling, stage=stage)
        cost = cost_of([said])
        for _ in range(self.rounds):
            critique = await student.critique(question, said.attempt, self.sampling, stage=stage)
            said = await student.redraft(question, said.attempt, critique.text, self.sampling, stage=stage)
            cost = cost + Cost.of(critique.usage) + cost_of([said])
        return Choice(said.attempt, cost)
