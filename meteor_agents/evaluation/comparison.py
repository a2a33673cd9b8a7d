"""Pairwise comparison of two replies by model judges: in both orders, by criterion, and controlled for length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import Field

from meteor_agents.evaluation.grading import EVALUATE
from meteor_agents.evaluation.results import Statistic
from meteor_agents.evaluation.statistics import mean, proportion, win_share_at_equal_length
from meteor_agents.messages import Attempt, Message, Question
from meteor_agents.method.judges import JudgeReply, ModelJudge
from meteor_agents.method.replies import COMPARISON_SCHEMA, CRITERIA, parse_comparison
from meteor_agents.models import Occasion

_SWAPPED = {"A": "B", "B": "A", "tie": "tie"}
"""A winner's letter -> its letter in the other order."""


class Preference(NamedTuple):
    """What one judge says on one criterion, both orders taken together."""

    share: float
    """The `with_` reply's share: 1 if both orders prefer it, 0 if both prefer the other one, else one half."""
    flipped: bool
    """Whether the two orders disagree."""


class PairComparison(NamedTuple):
    """One question: what each judge prefers, and how the two replies differ in length."""

    by_judge: dict[str, dict[str, Preference]]
    """Judge -> criterion -> preference, for the judges that could be read in both orders."""
    unread: int
    """Judges that could not be read in both orders."""
    longer_by: int
    """Characters by which the `with_` reply is longer."""

    def share(self, criterion: str) -> float:
        """The `with_` reply's share on one criterion, averaged over the judges; at least one must have been read."""
        return sum(preferences[criterion].share for preferences in self.by_judge.values()) / len(self.by_judge)


class WinShares(Message):
    """Pairwise win shares by criterion. The other side's share is 1 minus `with_`: a tie gives half to each."""

    questions: int
    judge_errors: int
    """Questions that no judge could be read on; left out of every figure."""
    flipped: int
    """Verdicts that changed when the two replies changed places, over all criteria and judges."""
    verdicts: int = 0
    """All verdicts, over all criteria and judges."""
    flip_share: Statistic | None = None
    """`flipped` as a share of `verdicts`."""
    flips: dict[str, float] = Field(default_factory=dict)
    """The same share by criterion."""
    with_: dict[str, Statistic]
    """Win share by criterion."""
    overall: Statistic | None = None
    """Mean win share over the criteria."""
    at_equal_length: Statistic | None = None
    """`overall` as it would be if both replies were equally long."""


async def compare(
    question: Question, judges: Mapping[str, ModelJudge], without: Attempt, with_: Attempt
) -> PairComparison:
    """Have every judge compare two complete replies in both orders. Raises `ModelError` if a judge gives no reply."""
    asked = {name: await _compare(question, judge, without, with_) for name, judge in judges.items()}
    read = {name: preferences for name, preferences in asked.items() if preferences}
    return PairComparison(read, len(asked) - len(read), len(with_.text) - len(without.text))


async def _compare(question: Question, judge: ModelJudge, without: Attempt, with_: Attempt) -> dict[str, Preference]:
    occasion = Occasion(EVALUATE, question.id)
    forth = await judge.ask(
        "judge_compare", question, _read_comparison, bool, occasion, COMPARISON_SCHEMA, first=without, second=with_
    )
    back = await judge.ask(
        "judge_compare", question, _read_comparison, bool, occasion, COMPARISON_SCHEMA, first=with_, second=without
    )
    if not forth or not back:
        return {}
    return {criterion: _preference(forth[criterion], back[criterion]) for criterion in CRITERIA}


def _read_comparison(reply: JudgeReply) -> dict[str, str]:
    return parse_comparison(reply.text, reply.quoted) or {}


def _preference(forth: str, back: str) -> Preference:
    """`forth` is the winner when the `with_` reply stands second (B), `back` when it stands first (A)."""
    if forth != _SWAPPED[back]:
        return Preference(0.5, flipped=True)
    return Preference({"A": 0.0, "B": 1.0, "tie": 0.5}[forth], flipped=False)


def summarise_comparisons(found: Sequence[PairComparison]) -> WinShares:
    """Win shares over all compared questions, whatever their order; without figures if no judge could be read."""
    read = [compared for compared in found if compared.by_judge]
    shares = WinShares(questions=len(found), judge_errors=len(found) - len(read), flipped=0, with_={})
    if not read:
        return shares
    flips = {
        name: [preferences[name].flipped for compared in read for preferences in compared.by_judge.values()]
        for name in CRITERIA
    }
    overall = [sum(compared.share(name) for name in CRITERIA) / len(CRITERIA) for compared in read]
    flipped, verdicts = sum(map(sum, flips.values())), sum(map(len, flips.values()))
    controlled = win_share_at_equal_length(overall, [compared.longer_by for compared in read])
    return shares.model_copy(
        update={
            "flipped": flipped,
            "verdicts": verdicts,
            "flip_share": Statistic.of(proportion(flipped, verdicts), verdicts),
            "flips": {name: sum(values) / len(values) for name, values in flips.items()},
            "with_": {name: Statistic.of(mean([c.share(name) for c in read]), len(read)) for name in CRITERIA},
            "overall": Statistic.of(mean(overall), len(read)),
            "at_equal_length": Statistic.of(controlled, len(read)) if controlled else None,
        }
    )
