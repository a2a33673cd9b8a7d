from __future__ import annotations

import doctest
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meteor_agents.data import number_columns, question_pool
from meteor_agents.data.question_pool import QuestionPool
from meteor_agents.errors import QuestionsError
from meteor_agents.messages import Question

texts = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)
questions = st.builds(
    Question,
    id=texts,
    question=texts,
    title=st.none() | st.text(st.characters(codec="utf-8")),
    metadata=st.dictionaries(st.text(st.characters(codec="utf-8")), st.integers() | st.booleans() | texts),
)


def test_examples_in_the_docstrings_are_true() -> None:
    assert doctest.testmod(question_pool).attempted == 2
    assert doctest.testmod(question_pool).failed == 0
    assert doctest.testmod(number_columns).attempted == 3
    assert doctest.testmod(number_columns).failed == 0


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(st.lists(questions, max_size=8, unique_by=lambda question: question.id), st.integers(-9, 9), st.integers(-9, 9))
def test_a_pool_is_the_list_that_it_was_made_of(given_: list[Question], start: int, end: int) -> None:
    pool = QuestionPool.of(given_)
    assert list(pool) == given_
    assert [pool[at] for at in range(len(pool))] == given_
    assert list(pool.ids) == [question.id for question in given_]
    assert list(pool[start:end]) == given_[start:end]
    assert list(pool.where(lambda id_: id_ > "M")[start:]) == [q for q in given_ if q.id > "M"][start:]


def test_what_is_settled_is_left_out_unless_it_reads_otherwise_now() -> None:
    one, two, three = (Question(id=str(i), question=f"question {i}") for i in range(3))
    pool = QuestionPool.of([one, two, three])
    settled = [(two.id, two.model_dump_json()), (three.id, one.model_dump_json()), ("gone", one.model_dump_json())]
    assert list(pool.without(settled)) == [one, three]
    assert list(pool[1:].without(settled)) == [three]


def test_a_hundred_thousand_questions_take_little_more_than_their_text() -> None:
    tracemalloc.start()
    pool = QuestionPool.of(Question(id=f"train-{i:06}", question=f"How many books? {i}") for i in range(20_000))
    per_question = tracemalloc.get_traced_memory()[0] / len(pool)
    tracemalloc.stop()
    text = len(pool[0].model_dump_json())
    assert per_question < text + 150
    assert len(pool[5:].where(lambda id_: id_.endswith("7"))) == 2000


def test_what_json_cannot_hold_is_refused_with_the_question() -> None:
    with pytest.raises(QuestionsError, match="question 'a' holds what cannot be kept"):
        QuestionPool.of([Question(id="a", question="?", metadata={"image": b"\xff"})])
