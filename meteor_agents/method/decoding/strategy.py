"""What every decoding strategy has: a way to get one attempt from the student, and what that attempt cost.

A strategy asks through the student, whose calls are recorded one by one. Samples of one prompt differ by their
number, so strategies that draw the same samples share them, and a run that was killed repeats none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from meteor_agents.messages import Attempt, Decoded, Question
from meteor_agents.method.agents import Said, Student
from meteor_agents.models import Usage

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




NOTHING = Cost(0, 0, 0, 0.0)






def cost_of(drawn: Sequence[Said], *more: Cost) -> Cost:
    """The cost of the calls that made these attempts, plus `more`."""
    total = NOTHING
    for cost in (*(Cost.of(said.usage) for said in drawn), *more):
        total = total + cost
    return total








def _sum(a: Number | None, b: Number | None) -> Number | None:
    return None if a is None or b is None else a + b
