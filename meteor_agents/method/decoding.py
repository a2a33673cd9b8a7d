"""Decoding strategies: ways of getting one attempt from the student, each with its cost.

A strategy asks through the student, whose calls are recorded one by one. Samples of one prompt differ by their
number, so strategies that draw the same samples share them, and a run that was killed repeats none.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from meteor_agents.errors import ModelError
from meteor_agents.messages import Attempt, Decoded, Question, Status
from meteor_agents.method.agents import Said, Student
from meteor_agents.method.judges import Judge, JudgeReply, ModelJudge, VerifierJudge
from meteor_agents.method.replies import SCORES_SCHEMA, parse_scores
from meteor_agents.method.text_similarity import medoid, normalised
from meteor_agents.models import Occasion, SamplingParams, Usage

Value = TypeVar("Value")
Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class Cost:
    """The calls and tokens that a reply took from the student. None: a server did not say."""

    calls: int
    input_tokens: int | None
    output_tokens: int | None
    passed: float | None
    """Tokens that the student's weights computed, forward."""

    @classmethod
    def of(cls, usage: Usage, *, prompt_passes: float = 1, reply_passes: float = 1) -> Cost:
        """The cost of one call. `prompt_passes` and `reply_passes`: how often each token was computed."""
        given, said = usage.input_tokens, usage.output_tokens
        known = given is not None and said is not None
        return cls(1, given, said, prompt_passes * (given or 0) + reply_passes * (said or 0) if known else None)

    def __add__(self, other: Cost) -> Cost:
        """The cost of both; a part that is unknown in one is unknown in the sum."""
        return Cost(
            self.calls + other.calls,
            _sum(self.input_tokens, other.input_tokens),
            _sum(self.output_tokens, other.output_tokens),
            _sum(self.passed, other.passed),
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """The attempt that a strategy chose, and what it took."""

    attempt: Attempt
    cost: Cost
    scores: tuple[float | None, ...] = ()
    """The score of each candidate, where there were several; None for one that has none."""
    chosen: int = 0
    """The index of the chosen candidate in `scores`."""


class Strategy(Protocol):
    """One way of decoding."""

    @property
    def name(self) -> str:
        """The strategy in a few words, for people: for example "best of 8 by judge"."""
        ...

    async def decode(self, question: Question, student: Student, *, stage: str) -> Choice:
        """One attempt at the question. Raises `ModelError` when there is none."""
        ...


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
class BestOf:
    """The sample that the judge, or the student's own likelihood, ranks first; the earliest of equals.

    A sample that is not complete is chosen only if none is.
    """

    name: str
    sampling: SamplingParams
    samples: int
    by: Literal["judge", "likelihood"]
    judge: Judge

    async def decode(self, question: Question, student: Student, *, stage: str) -> Choice:
        """The best-rated sample. Raises `ModelError` when no sample has a readable score."""
        drawn = await _draw(self.samples, question, student, self.sampling, stage)
        rated = await all_of([self._rate(question, student, said.attempt, stage) for said in drawn])
        scores = [score for score, _ in rated]
        open_to = [i for i in _complete(drawn) if scores[i] is not None]
        if not open_to:
            raise ModelError(f"{self.name}: not one of the samples has a readable score")
        best = max(open_to, key=lambda i: scores[i] or 0.0)
        return Choice(drawn[best].attempt, _cost(drawn, *(cost for _, cost in rated)), tuple(scores), best)

    async def _rate(
        self, question: Question, student: Student, attempt: Attempt, stage: str
    ) -> tuple[float | None, Cost]:
        if self.by == "judge":
            return await score(question, self.judge, attempt, stage=stage), NOTHING
        likelihood, usage = await student.likelihood(question, attempt, stage=stage)
        return likelihood.mean, Cost.of(usage)


@dataclass(frozen=True, slots=True)
class Vote:
    """Self-consistency: the first sample with the most frequent final answer, or the sample most similar to the others.

    Only complete samples have a vote, if any is complete.
    """

    name: str
    sampling: SamplingParams
    samples: int
    by: Literal["answer", "text"]
    judge: Judge

    async def decode(self, question: Question, student: Student, *, stage: str) -> Choice:
        """The sample with the most votes; its scores are shares of the votes, or mean similarities."""
        drawn = await _draw(self.samples, question, student, self.sampling, stage)
        if self.by == "text":
            best, scores = await asyncio.to_thread(_most_alike, drawn)
        else:
            views = await all_of([view(self.judge, question, said.attempt.answer) for said in drawn])
            best, scores = _most_frequent(views, _complete(drawn))
        return Choice(drawn[best].attempt, _cost(drawn), tuple(scores), best)


@dataclass(frozen=True, slots=True)
class Revise:
    """A draft, then for some rounds the student's own critique of it and a new draft."""

    name: str
    sampling: SamplingParams
    rounds: int

    async def decode(self, question: Question, student: Student, *, stage: str) -> Choice:
        """The last draft. Its cost includes every draft and critique."""
        said = await student.decode(question, self.sampling, stage=stage)
        cost = _cost([said])
        for _ in range(self.rounds):
            critique = await student.critique(question, said.attempt, self.sampling, stage=stage)
            said = await student.redraft(question, said.attempt, critique.text, self.sampling, stage=stage)
            cost = cost + Cost.of(critique.usage) + _cost([said])
        return Choice(said.attempt, cost)


async def score(question: Question, judge: Judge, attempt: Attempt, *, stage: str) -> float | None:
    """A judge's opinion as a number: a verifier's 1 or 0, a model's mean over the five criteria; None without an opinion."""
    if isinstance(judge, ModelJudge):
        found = await judge.ask(
            "judge_score", question, _read_scores, bool, Occasion(stage, question.id), SCORES_SCHEMA, answer=attempt
        )
        return sum(found.values()) / len(found) if found else None
    verdict = await judge.evaluate(question, attempt, stage=stage)
    return None if verdict.status is Status.ERROR else float(verdict.status is Status.CORRECT)


async def view(judge: Judge, question: Question, answer: str) -> str:
    """A final answer as the verifier sees it ("seen ..."); else, as normalised text ("read ...")."""
    seen = await judge.view(question, answer) if isinstance(judge, VerifierJudge) else None
    return f"seen {seen}" if seen is not None else f"read {normalised(answer)}"


def decoded(strategy: Strategy, choice: Choice, parameters: int | None) -> Decoded:
    """For the trace: what the choice took, at 2 x `parameters` floating point operations per token."""
    cost = choice.cost
    return Decoded(
        strategy=strategy.name,
        weights=choice.attempt.weights,
        calls=cost.calls,
        input_tokens=cost.input_tokens,
        output_tokens=cost.output_tokens,
        flops=2.0 * parameters * cost.passed if parameters and cost.passed is not None else None,
        scores=choice.scores,
        chosen=choice.chosen,
    )


async def all_of(calls: Sequence[Awaitable[Value]]) -> list[Value]:
    """The results of all calls, or the first error once every call has ended, so that what was paid for is kept."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    found: list[Value] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        found.append(result)
    return found


NOTHING = Cost(0, 0, 0, 0.0)


async def _draw(samples: int, question: Question, student: Student, sampling: SamplingParams, stage: str) -> list[Said]:
    return await all_of(
        [student.decode(question, sampling, stage=stage, sample=number) for number in range(1, samples + 1)]
    )


def _complete(drawn: Sequence[Said]) -> list[int]:
    """The indices of the complete samples; of all of them if none is complete."""
    return [i for i, said in enumerate(drawn) if said.attempt.ending.complete] or list(range(len(drawn)))


def _cost(drawn: Sequence[Said], *more: Cost) -> Cost:
    total = NOTHING
    for cost in (*(Cost.of(said.usage) for said in drawn), *more):
        total = total + cost
    return total


def _most_alike(drawn: Sequence[Said]) -> tuple[int, list[float | None]]:
    complete = _complete(drawn)
    best, means = medoid([drawn[i].attempt.text for i in complete])
    by_place: dict[int, float] = dict(zip(complete, means, strict=True))
    return complete[best], [by_place.get(i) for i in range(len(drawn))]


def _most_frequent(views: Sequence[str], complete: Sequence[int]) -> tuple[int, list[float | None]]:
    votes = Counter(views[i] for i in complete)
    scores = [votes[seen] / len(complete) if i in complete else None for i, seen in enumerate(views)]
    return max(complete, key=lambda i: (scores[i] or 0.0, -i)), scores


def _read_scores(reply: JudgeReply) -> dict[str, float]:
    return parse_scores(reply.text, reply.quoted) or {}


def _sum(a: Number | None, b: Number | None) -> Number | None:
    return None if a is None or b is None else a + b
