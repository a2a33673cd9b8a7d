"""Strategies that draw several samples and choose one: best of N, and voting."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from meteor_agents.errors import ModelError
from meteor_agents.messages import Attempt, Question, Status
from meteor_agents.method.agents import Said, Student
from meteor_agents.method.decoding.strategy import NOTHING, Choice, Cost, cost_of
from meteor_agents.method.decoding.text_similarity import medoid, normalised
from meteor_agents.method.judges import Judge, JudgeReply, ModelJudge, VerifierJudge
from meteor_agents.method.replies import SCORES_SCHEMA, parse_scores
from meteor_agents.models import Occasion, SamplingParams

Value = TypeVar("Value")


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
        return Choice(drawn[best].attempt, cost_of(drawn, *(cost for _, cost in rated)), tuple(scores), best)

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
        return Choice(drawn[best].attempt, cost_of(drawn), tuple(scores), best)


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


async def all_of(calls: Sequence[Awaitable[Value]]) -> list[Value]:
    """The results of all calls, or the first error once every call has ended, so that what was paid for is kept."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    found: list[Value] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        found.append(result)
    return found


async def _draw(samples: int, question: Question, student: Student, sampling: SamplingParams, stage: str) -> list[Said]:
    return await all_of(
        [student.decode(question, sampling, stage=stage, sample=number) for number in range(1, samples + 1)]
    )


def _complete(drawn: Sequence[Said]) -> list[int]:
    """The indices of the complete samples; of all of them if none is complete."""
    return [i for i, said in enumerate(drawn) if said.attempt.ending.complete] or list(range(len(drawn)))


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
