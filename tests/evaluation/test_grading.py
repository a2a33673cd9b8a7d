"""Grading a reply by a panel, and the figures over graded replies."""

from __future__ import annotations

import json
import random

import pytest

from meteor_agents.errors import StoreError
from meteor_agents.evaluation.grading import Panel, is_graded
from meteor_agents.evaluation.results import read_graded_reply, summarise
from meteor_agents.messages import Attempt, Question, Status, Verdict
from meteor_agents.method.judges import ModelJudge
from meteor_agents.method.replies import CRITERIA
from meteor_agents.models import FinishReason
from tests.evaluation.graded import QUESTION, examined, result, scoring, voice


def test_a_panel_scores_by_its_mean_and_keeps_what_each_judge_said() -> None:
    found = examined(Panel(judges={"one": scoring(8), "other": scoring(4)}))
    assert found.overall == 6
    assert found.by_judge == {"one": dict.fromkeys(CRITERIA, 8), "other": dict.fromkeys(CRITERIA, 4)}
    assert found.explanation == "a 8 a 4"


def test_a_judge_that_cannot_be_read_never_scores_and_its_question_is_owed_again() -> None:
    mute = ModelJudge(voice(lambda text: "I would rather not."))
    alone = examined(Panel(judges={"mute": mute}))
    assert (alone.status, alone.scores, alone.overall) == (Status.ERROR, None, None)
    beside = examined(Panel(judges={"one": scoring(8), "mute": mute}))
    assert (beside.overall, beside.unread) == (8, 1)
    metrics = summarise({"a": alone, "b": beside}, asked=3)
    assert (metrics.judge_errors, metrics.failed) == (1, 1)
    assert metrics.criteria["overall"].n == 1
    assert metrics.accuracy is None, "no verifier, no accuracy"


INCOMPLETE = [ending for ending in FinishReason if not ending.complete]
THE_STUDENTS_DOING = (FinishReason.CUT, FinishReason.REFUSED, FinishReason.FILTERED)


class Lenient:
    """A verifier to which everything is right."""

    free = True

    async def evaluate(self, question: Question, attempt: Attempt, *, stage: str, tries: int = 1) -> Verdict:
        return Verdict(status=Status.CORRECT, model="verifier:lenient")


@pytest.mark.parametrize("ending", INCOMPLETE)
def test_a_reply_that_is_not_complete_is_never_right_and_never_scored(ending: FinishReason) -> None:
    verified = examined(Panel(Lenient(), {"one": scoring(9)}), ending)
    assert (verified.scores, verified.unread) == (None, 0)
    assert ending.told in verified.explanation or "cut off" in verified.explanation
    settled = ending in THE_STUDENTS_DOING
    assert verified.status is (Status.INCORRECT if settled else Status.ERROR)
    assert verified.correct == (0.0 if settled else None)
    assert is_graded(verified, QUESTION) is settled, "what the server broke off is asked again"


@pytest.mark.parametrize("ending", INCOMPLETE)
def test_without_a_verifier_a_reply_that_is_not_complete_has_no_figure_and_is_no_judges_error(ending: FinishReason) -> None:
    scored = examined(Panel(judges={"one": scoring(9)}), ending)
    assert (scored.scores, scored.correct, scored.overall) == (None, None, None)
    assert is_graded(scored, QUESTION) is (ending in THE_STUDENTS_DOING)
    metrics = summarise({"a": scored, "b": result(7)}, asked=2)
    assert (metrics.judge_errors, metrics.truncated + metrics.incomplete) == (0, 1)
    assert metrics.criteria["overall"].n == 1
    assert metrics.accuracy is None
    assert metrics.headline().endswith("(1 of 2 not complete)")


def test_a_verifiers_accuracy_stands_beside_the_judges_scores() -> None:
    results = {
        "a": result(9, verified=True),
        "b": result(7, Status.INCORRECT, verified=True),
        "c": result(None, Status.ERROR),
    }
    metrics = summarise(results, asked=3)
    assert metrics.accuracy is not None
    assert (metrics.accuracy.value, metrics.accuracy.n) == (0.5, 2)
    assert metrics.criteria["overall"].value == 8


def test_figures_on_questions_apart_from_training_stand_beside_the_whole() -> None:
    results = {f"q{n}": result(None, Status.CORRECT if n < 5 else Status.INCORRECT) for n in range(10)}
    metrics = summarise(results, asked=10, near_training={"q0", "q1", "q2", "q3", "q4"})
    assert metrics.accuracy is not None
    assert metrics.apart is not None
    assert (metrics.near_training, metrics.accuracy.value, metrics.apart.value) == (5, 0.5, 0)


def test_figures_do_not_depend_on_the_order_in_which_replies_came_in() -> None:
    draw = random.Random(1)
    replies = {f"q{n}": result(draw.choice((3, 5, 7, 9.5))) for n in range(60)}
    metrics = summarise(replies, asked=60, near_training={f"q{n}" for n in range(9)})
    for _ in range(5):
        shuffled = draw.sample(list(replies.items()), len(replies))
        assert summarise(dict(shuffled), asked=60, near_training={f"q{n}" for n in range(9)}) == metrics


def test_a_half_surrogate_in_a_judges_words_is_replaced_and_stored() -> None:
    judge = ModelJudge(voice(lambda text: json.dumps({"justification": "x \ud83d", **dict.fromkeys(CRITERIA, 5)})))
    found = examined(Panel(judges={"one": judge}))
    assert found.explanation == "x \ufffd"
    assert read_graded_reply(found.model_dump_json(), "q") == found


def test_a_whole_emoji_in_two_halves_is_kept() -> None:
    assert result(5, explanation="x \ud83d\ude00").explanation == "x \U0001f600"


@pytest.mark.parametrize("stored", ["", "{", "[]", "null", '{"asked": 1}', "[" * 5000, '{"asked": "\\ud83d"}', "{}"])
def test_a_damaged_result_is_named_with_its_question(stored: str) -> None:
    with pytest.raises(StoreError, match="the stored result of held-out question 'q7' is damaged"):
        read_graded_reply(stored, "q7")
