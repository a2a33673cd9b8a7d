"""Two replies to one question, compared by model judges: both orders, by criterion, and how far length explains who wins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import Field

from meteor_agents.evaluation.grading import EVALUATE, Estimate
from meteor_agents.evaluation.statistics import mean, proportion, share_at_equal_length
from meteor_agents.messages import Attempt, Message, Question
from meteor_agents.method.judges import JudgeReply, ModelJudge
from meteor_agents.method.replies import COMPARISON_SCHEMA, CRITERIA, parse_comparison
from meteor_agents.models import Occasion

OF_THE_OTHER_ORDER = {"A": "B", "B": "A", "tie": "tie"}


class Preference(NamedTuple):
    """What both orders together say on one criterion."""

    share: float
    """Of the reply of interest: 1 where both orders prefer it, 0 where both prefer the other, else one half."""
    flipped: bool
    """The two orders disagree."""


class Compared(NamedTuple):
    """One question: what each judge that could be read in both orders prefers, and how the replies differ in length."""

    by_judge: dict[str, dict[str, Preference]]
    unread: int
    """Judges that could not be read in both orders."""
    longer_by: int
    """Characters that the reply of interest has more."""

    def share(self, criterion: str) -> float:
        return sum(preferences[criterion].share for preferences in self.by_judge.values()) / len(self.by_judge)


class Shares(Message):
    """Pairwise win shares by criterion; `with_` + `without` = 1, a tie being half to each."""

    questions: int
    judge_errors: int
    """Questions that no judge could be read on; left out of every figure."""
    flipped: int
    """Verdicts that changed when the order of the two replies was swapped, over all criteria and judges."""
    verdicts: int = 0
    """Of so many."""
    flip_share: Estimate | None = None
    flips: dict[str, float] = Field(default_factory=dict)
    """Share that flipped, by criterion."""
    with_: dict[str, Estimate]
    overall: Estimate | None = None
    """Mean share over the criteria."""
    at_equal_length: Estimate | None = None
    """`overall`, with what length explains taken away."""


async def compare(question: Question, judges: Mapping[str, ModelJudge], without: Attempt, with_: Attempt) -> Compared:
    """Two replies judged in both orders, by every judge and criterion."""
    asked = {name: await _compare(question, judge, without, with_) for name, judge in judges.items()}
    read = {name: preferences for name, preferences in asked.items() if preferences}
    return Compared(read, len(asked) - len(read), len(with_.text) - len(without.text))


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
    """`forth` is the winner with the reply of interest as B, `back` with it as A."""
    if forth != OF_THE_OTHER_ORDER[back]:
        return Preference(0.5, flipped=True)
    return Preference({"A": 0.0, "B": 1.0, "tie": 0.5}[forth], flipped=False)


def summarise_comparison(found: Sequence[Compared]) -> Shares:
    read = [compared for compared in found if compared.by_judge]
    shares = Shares(questions=len(found), judge_errors=len(found) - len(read), flipped=0, with_={})
    if not read:
        return shares
    flips = {
        name: [preferences[name].flipped for compared in read for preferences in compared.by_judge.values()]
        for name in CRITERIA
    }
    overall = [sum(compared.share(name) for name in CRITERIA) / len(CRITERIA) for compared in read]
    flipped, verdicts = sum(map(sum, flips.values())), sum(map(len, flips.values()))
    controlled = share_at_equal_length(overall, [compared.longer_by for compared in read])
    return shares.model_copy(
        update={
            "flipped": flipped,
            "verdicts": verdicts,
            "flip_share": Estimate.of(proportion(flipped, verdicts), verdicts),
            "flips": {name: sum(values) / len(values) for name, values in flips.items()},
            "with_": {name: Estimate.of(mean([c.share(name) for c in read]), len(read)) for name in CRITERIA},
            "overall": Estimate.of(mean(overall), len(read)),
            "at_equal_length": Estimate.of(controlled, len(read)) if controlled else None,
        }
    )
