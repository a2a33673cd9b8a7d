from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meteor_agents.data.question_pool import QuestionPool
from meteor_agents.data.questions import overlap, read_questions, split_questions
from meteor_agents.errors import QuestionsError
from meteor_agents.messages import Question


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


ROWS = [{"id": "a", "question": "What?", "reference": "1"}, {"id": "b", "question": "Why?", "tag": "x"}]


def test_json_jsonl_csv_and_parquet_give_the_same_questions(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="reading Parquet needs pyarrow")
    import pyarrow.parquet as parquet

    table = pyarrow.Table.from_pylist([{"id": r["id"], "question": r["question"], "reference": r.get("reference"),
                                        "tag": r.get("tag")} for r in ROWS])  # fmt: skip
    parquet.write_table(table, tmp_path / "q.parquet")
    files = [
        written(tmp_path / "q.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS)),
        written(tmp_path / "q.json", json.dumps(ROWS)),
        written(tmp_path / "q.csv", "id,question,reference,tag\na,What?,1,\nb,Why?,,x\n"),
        tmp_path / "q.parquet",
    ]
    read = [list(read_questions(path)) for path in files]
    assert read[0] == read[1] == read[2] == read[3]
    assert read[0][1] == Question(id="b", question="Why?", metadata={"tag": "x"})


def test_field_names_can_be_mapped(tmp_path: Path) -> None:
    path = written(tmp_path / "q.jsonl", '{"question_title": "T", "question_content": "C", "votes": 3}\n')
    (question,) = read_questions(path, {"title": "question_title", "question": "question_content"})
    assert (question.title, question.question, question.metadata) == ("T", "C", {"votes": 3})


def test_an_id_made_from_content_survives_reordering(tmp_path: Path) -> None:
    lines = ['{"question": "one"}\n', '{"question": "two"}\n']
    forth = read_questions(written(tmp_path / "a.jsonl", "".join(lines)))
    back = read_questions(written(tmp_path / "b.jsonl", "".join(reversed(lines))))
    assert {q.id: q.question for q in forth} == {q.id: q.question for q in back}


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("q.jsonl", '{"question": "a"}\n{oops\n', "line 2: not JSON"),
        ("q.jsonl", '{"question": "a"}\n\n["b"]\n', "line 3: must be a JSON object"),
        ("q.jsonl", '{"question": "a"}\n{"question": "  "}\n', "line 2: question"),
        (
            "q.jsonl",
            '{"question": "a"}\n{"text": "b"}\n',
            "line 2: the field 'question' is missing or empty; found text",
        ),
        ("q.jsonl", '{"id": "x", "question": "a"}\n{"id": "x", "question": "b"}\n', "line 2: the same id as line 1"),
        ("q.jsonl", '{"question": "a"}\n{"question": "a"}\n', "line 2: the same question as line 1"),
        ("q.jsonl", "", "holds no question"),
        ("q.json", '{"question": "a"}', "must hold a JSON array"),
        ("q.csv", "question\na,b\n", "line 2: more fields than the header has"),
        ("q.csv", 'id,question\n1,"open\n', "line 2"),
        ("q.txt", "a", "unknown kind of file '.txt'"),
        ("q.jsonl", '{"question": "a", "metadata": 3}\n', "line 1: metadata must be an object"),
    ],
)
def test_malformed_questions_are_refused_with_their_place(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    with pytest.raises(QuestionsError) as refused:
        read_questions(written(tmp_path / name, text))
    assert complaint in str(refused.value)
    assert name in str(refused.value)


def test_a_file_that_is_not_text_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(QuestionsError, match="not UTF-8"):
        read_questions(tmp_path / "q.jsonl")
    with pytest.raises(QuestionsError, match="no such questions file"):
        read_questions(tmp_path / "nowhere.jsonl")


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


def test_overlap_sees_through_case_and_white_space() -> None:
    train, held = Question(id="a", question="How  many?"), Question(id="b", question="how many?")
    assert overlap([train], [held]) == [held]
