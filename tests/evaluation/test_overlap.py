"""Held-out questions that repeat training questions."""

from __future__ import annotations

import pytest

from meteor_agents.data.near_duplicates import find_near_duplicates, find_near_duplicates_by_set
from meteor_agents.messages import Question


def ask(id_: str, text: str) -> Question:
    return Question(id=id_, question=text)


def test_exact_and_near_duplicates_of_training_questions_are_found() -> None:
    train = [
        ask("t1", "How many loans were taken in the month 2023-02?"),
        ask("t2", "Why does my model not converge when I raise the learning rate?"),
        ask("t3", "What is a tensor?"),
    ]
    held = [
        ask("h1", "how many loans were taken in the month  2023-02"),
        ask("h2", "In the month 2023-06, how many loans were taken?"),
        ask("h3", "Which optimiser is best for sparse gradients?"),
    ]
    found = find_near_duplicates(train, held)
    assert (found.questions, found.exact) == (3, 1)
    assert [(near.heldout, near.train) for near in found.near] == [("h1", "t1"), ("h2", "t1")]
    assert found.near[0].alike == 1 > found.near[1].alike >= 0.85
    assert "2 of 3 questions nearly repeat one of training (1 word for word)" in found.sentence("mine")


def test_overlap_is_looked_for_again_only_when_a_question_has_changed() -> None:
    train, held = [ask("t", "What is one plus one?")], {"held out": [ask("h", "What is two plus two?")]}
    first = find_near_duplicates_by_set([train], held)
    assert find_near_duplicates_by_set([train], held, first) is first
    changed = {"held out": [ask("h", "What is one plus one")]}
    assert find_near_duplicates_by_set([train], changed, first).sets["held out"].exact == 1


def test_near_duplicates_are_the_same_however_many_are_compared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    train = [ask(f"t{i}", f"Which book number {i} was lent to reader {i * i}?") for i in range(40)]
    held = [ask(f"h{i}", f"Which book number {i} was lent to the reader {i}?") for i in range(12)]
    at_once = find_near_duplicates(train, held)
    assert at_once.near
    monkeypatch.setattr("meteor_agents.data.near_duplicates.AT_ONCE", 7)
    assert [(near.heldout, near.alike) for near in find_near_duplicates(train, held).near] == [
        (near.heldout, near.alike) for near in at_once.near
    ]
