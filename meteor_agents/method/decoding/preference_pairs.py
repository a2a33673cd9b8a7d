"""Which two replies make a preference pair: both complete, not alike, not of very different length, and verified."""

from __future__ import annotations

from dataclasses import dataclass

from meteor_agents.messages import Attempt, Dropped, Question
from meteor_agents.method.decoding.sampled import view
from meteor_agents.method.decoding.text_similarity import normalised, similarity
from meteor_agents.method.judges import Judge
from meteor_agents.models import FinishReason


@dataclass(frozen=True, slots=True)
class PairRules:
    """The rules for preference pairs of stage 3."""

    judge: Judge
    """The run's judge. A verifier tells which answers are the same; with a model judge, their texts are compared."""
    near_equal: float = 0.95
    """The similarity from which two final answers count as nearly equal, where no verifier can read them."""
    max_length_ratio: float | None = None
    """The most that the longer reply's characters may be to the shorter one's; None: any ratio."""
    verify: Judge | None = None
    """Who must find the high-compute reply correct and the low-compute one incorrect; None: no one."""

    async def unfit(self, question: Question, low: Attempt, high: Attempt) -> Dropped | None:
        """Why two replies make no pair, before anyone verifies them; None when they make one."""
        endings = {low.ending, high.ending} - {FinishReason.COMPLETE}
        if endings:
            return Dropped.CUT if endings == {FinishReason.CUT} else Dropped.INCOMPLETE
        if normalised(low.text) == normalised(high.text):
            return Dropped.EQUAL
        seen = [await view(self.judge, question, side.answer) for side in (low, high)]
        if seen[0] == seen[1]:
            return Dropped.EQUAL
        unread = all(side.startswith("read ") for side in seen)
        if unread and similarity(low.answer, high.answer) >= self.near_equal:
            return Dropped.NEARLY_EQUAL
        shorter, longer = sorted((len(low.text), len(high.text)))
        if self.max_length_ratio is not None and longer > self.max_length_ratio * shorter:
            return Dropped.LENGTHS
        return None
