"""Which two replies are a pair to learn from: neither cut, nor alike, nor of very different length, nor unverified."""

from __future__ import annotations

from dataclasses import dataclass

from meteor_agents.messages import Attempt, Dropped, Question
from meteor_agents.method.agents import Judge
from meteor_agents.method.decoding import view
from meteor_agents.method.text_similarity import likeness, normal


@dataclass(frozen=True, slots=True)
class PairRules:
    """What makes a pair. `judge` tells what answers come to the same, if it is a verifier."""

    judge: Judge
    near_equal: float = 0.95
    """Likeness of final answers from which they are nearly equal; for answers that no verifier can read."""
    max_length_ratio: float | None = None
    """Of the longer reply's characters to the shorter one's."""
    verify: Judge | None = None
    """Who has to find the high reply correct and the low one incorrect."""

    async def unfit(self, question: Question, low: Attempt, high: Attempt) -> Dropped | None:
        """Why two replies are no pair, before anyone verifies them; None when they are one."""
        if high.truncated:
            return Dropped.CUT
        if normal(low.text) == normal(high.text):
            return Dropped.EQUAL
        seen = [await view(self.judge, question, side.answer) for side in (low, high)]
        if seen[0] == seen[1]:
            return Dropped.EQUAL
        if all(side.startswith("read ") for side in seen) and likeness(low.answer, high.answer) >= self.near_equal:
            return Dropped.NEARLY_EQUAL
        shorter, longer = sorted((len(low.text), len(high.text)))
        if self.max_length_ratio is not None and longer > self.max_length_ratio * shorter:
            return Dropped.LENGTHS
        return None
