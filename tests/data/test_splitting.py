from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meteor_agents.data.question_pool import QuestionPool
from meteor_agents.data.splitting import split_questions
from meteor_agents.errors import QuestionsError
from meteor_agents.messages import Question


def test_the_split_is_disjoint_seeded_and_independent_of_order() -> None:
    questions = QuestionPool.of(Question(id=f"q{i}", question=str(i)) for i in range(50))
    split = split_questions(questions, holdout=10, gate=5, seed=1)
    parts = [{q.id for q in part} for part in split]
    assert [len(part) for part in parts] == [35, 5, 10]
    assert len(set.union(*parts)) == 50
    again = split_questions(questions[::-1], holdout=10, gate=5, seed=1)
    assert [{q.id for q in part} for part in again] == parts
    assert [{q.id for q in part} for part in split_questions(questions, holdout=10, gate=5, seed=2)] != parts


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(9, 40),
    added=st.integers(0, 20),
    holdout=st.integers(0, 4),
    gate=st.integers(0, 3),
    seed=st.integers(),
)
def test_rows_that_are_added_later_never_move_the_line(
    rows: int, added: int, holdout: int, gate: int, seed: int
) -> None:
    questions = QuestionPool.of(Question(id=f"q{i}", question=str(i)) for i in range(rows + added))
    first = split_questions(questions[:rows], holdout=holdout, gate=gate, seed=seed)
    before = first.set_apart(holdout=holdout, gate=gate, seed=seed)
    later = split_questions(questions, holdout=holdout, gate=gate, seed=seed, before=before)
    assert (later.holdout, later.gate) == (first.holdout, first.gate)
    assert list(later.train) == [*first.train, *questions[rows:]]
    otherwise = split_questions(questions, holdout=holdout + 1, gate=gate, seed=seed)
    anew = split_questions(questions, holdout=holdout + 1, gate=gate, seed=seed, before=before)
    assert [list(part) for part in anew] == [list(part) for part in otherwise]


def test_a_split_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(QuestionsError, match="leave nothing to train on"):
        split_questions(QuestionPool.of([Question(id="a", question="a")]), holdout=1, gate=0, seed=0)
