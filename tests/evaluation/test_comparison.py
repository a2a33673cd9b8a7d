"""Pairwise comparison in both orders."""

from __future__ import annotations

import asyncio
import json
import random

from meteor_agents.evaluation.comparison import PairComparison, Preference, compare, summarise_comparisons
from meteor_agents.method.judges import ModelJudge
from meteor_agents.method.replies import CRITERIA
from tests.evaluation.graded import QUESTION, attempt, voice


def test_shares_add_to_one_and_a_win_needs_both_orders() -> None:
    always_first = ModelJudge(voice(lambda text: json.dumps(dict.fromkeys(CRITERIA, "A"))))
    found = asyncio.run(compare(QUESTION, {"judge": always_first}, attempt("1"), attempt("2")))
    shares = summarise_comparisons([found])
    assert {estimate.value for estimate in shares.with_.values()} == {0.5}
    assert (shares.flipped, shares.verdicts) == (5, 5)

    longer = ModelJudge(
        voice(
            lambda text: json.dumps(dict.fromkeys(CRITERIA, "A" if "\nlong" in text.split("Reply B")[0] else "B"))
        )
    )
    found = asyncio.run(compare(QUESTION, {"judge": longer}, attempt("short"), attempt("long, so long")))
    swapped = asyncio.run(compare(QUESTION, {"judge": longer}, attempt("long, so long"), attempt("short")))
    with_, without = (summarise_comparisons([side]).with_["accuracy"].value for side in (found, swapped))
    assert (with_, without) == (1, 0)


def test_an_unread_comparison_counts_apart() -> None:
    prefers: dict[str, Preference] = {name: Preference(1.0, flipped=False) for name in CRITERIA}
    found = [PairComparison({"judge": prefers}, 0, 10)] * 9 + [PairComparison({}, 1, 10)]
    shares = summarise_comparisons(found)
    assert (shares.questions, shares.judge_errors, shares.flipped) == (10, 1, 0)
    assert shares.with_["accuracy"].value == 1
    assert shares.at_equal_length is not None


def test_win_shares_do_not_depend_on_the_order_of_the_questions() -> None:
    draw = random.Random(2)
    found = [
        PairComparison({"judge": {name: Preference(draw.choice((0, 0.5, 1)), flipped=False) for name in CRITERIA}}, 0, n)
        for n in range(40)
    ]
    shares = summarise_comparisons(found)
    assert shares.overall is not None
    assert summarise_comparisons(draw.sample(found, len(found))) == shares
