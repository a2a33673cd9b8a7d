"""Paired differences between two students."""

from __future__ import annotations

import random

import pytest

from meteor_agents.evaluation.differences import paired_differences
from meteor_agents.evaluation.results import ACCURACY, OVERALL
from meteor_agents.messages import Status
from meteor_agents.method.replies import CRITERIA
from tests.evaluation.graded import result


def test_differences_are_paired_tested_and_say_what_could_be_shown() -> None:
    old = {f"q{n}": result(None, Status.INCORRECT if n < 8 else Status.CORRECT) for n in range(20)}
    new = {f"q{n}": result(None, Status.CORRECT) for n in range(20)}
    (found,) = paired_differences("base", "refine", old, new)
    assert found.measure == ACCURACY
    assert found.difference.value == pytest.approx(0.4)
    assert found.p == pytest.approx(2 / 2**8)
    assert 0.1 < found.smallest < 0.5


def test_scores_are_told_apart_by_criterion_over_the_questions_that_both_have() -> None:
    old = {f"q{n}": result(4) for n in range(10)}
    new = {f"q{n}": result(4 + n % 3) for n in range(5, 15)} | {"q5": result(None, Status.ERROR)}
    found = {difference.measure: difference for difference in paired_differences("a", "b", old, new)}
    assert set(found) == {*CRITERIA, OVERALL}
    assert found[OVERALL].difference.n == 4


def test_differences_do_not_depend_on_the_order_of_the_questions() -> None:
    draw = random.Random(3)
    old = {f"q{n}": result(draw.uniform(1, 10)) for n in range(40)}
    new = {f"q{n}": result(draw.uniform(1, 10)) for n in range(40)}
    shuffled = dict(draw.sample(list(old.items()), len(old)))
    assert paired_differences("a", "b", shuffled, new) == paired_differences("a", "b", old, new)
