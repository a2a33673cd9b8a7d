from __future__ import annotations

import gc
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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


def test_the_file_is_open_as_long_as_a_part_of_the_pool_is_there() -> None:
    pool = QuestionPool.of(Question(id=str(i), question="?") for i in range(3))
    file = pool._texts._file
    part = pool[1:]
    del pool
    gc.collect()
    assert part[0].id == "1"
    assert is_open(file)
    del part
    gc.collect()
    assert not is_open(file)


def is_open(file: int) -> bool:
    try:
        os.fstat(file)
    except OSError:
        return False
    return True


def test_no_room_for_the_file_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(QuestionsError, match=r"cannot be copied to .*nowhere: No such file or directory; make room"):
        QuestionPool.of([Question(id="a", question="?")])


def test_what_json_cannot_hold_is_refused_with_the_question() -> None:
    with pytest.raises(QuestionsError, match="question 'a' holds what cannot be kept"):
        QuestionPool.of([Question(id="a", question="?", metadata={"image": b"\xff"})])
