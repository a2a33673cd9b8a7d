"""How far judges agree with themselves and one another, and whether length decides."""

from __future__ import annotations

import pytest

from meteor_agents.evaluation.judge_reliability import length_effect, panel_agreements, self_agreement
from meteor_agents.messages import Status
from meteor_agents.method.replies import CRITERIA
from tests.evaluation.graded import result


def test_judges_asked_twice_are_compared_score_by_score() -> None:
    once = [result(5), result(7), result(None, Status.ERROR)]
    again = [result(5), result(9), result(3)]
    found = self_agreement(once, again)
    assert found is not None
    assert (found.questions, found.same.value, found.gap) == (2, 0.5, 1)


def test_judges_of_a_panel_are_compared_with_one_another() -> None:
    results = [
        result(5, by_judge={"a": dict.fromkeys(CRITERIA, n), "b": dict.fromkeys(CRITERIA, n + n % 2 * 2)})
        for n in range(1, 8)
    ]
    (found,) = panel_agreements(results)
    assert found.judges == ("a", "b")
    assert found.within_one == pytest.approx(3 / 7)
    assert found.correlation is not None
    assert found.correlation.value > 0.7


def test_a_judge_that_likes_length_is_found_out() -> None:
    found = length_effect([result(min(10, n), text="x" * n * 20) for n in range(1, 12)])
    assert found is not None
    assert found.correlation.value > 0.95
    assert length_effect([result(5, text="x" * n) for n in range(1, 12)]) is None
