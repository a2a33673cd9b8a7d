from __future__ import annotations

import json
from pathlib import Path

import pytest

from meteor_agents.data.near_duplicates import repeated_questions
from meteor_agents.data.questions import read_questions
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
        ("q.jsonl", '{"question": "a"}\n{"question": "  "}\n', "line 2: the field 'question' is missing or empty"),
        (
            "q.jsonl",
            '{"question": "a"}\n{"text": "b"}\n',
            "line 2: the field 'question' is missing or empty; found text",
        ),
        ("q.jsonl", '{"id": "x", "question": "a"}\n{"id": "x", "question": "b"}\n', "line 2: the same id as line 1"),
        ("q.jsonl", '{"question": "a"}\n{"question": "a"}\n', "line 2: the same question as line 1"),
        ("q.jsonl", "", "holds no question"),
        ("q.json", '{"data": [{"question": "a"}]}', "line 1: the field 'question' is missing or empty; found data"),
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
    (tmp_path / "q.jsonl").write_bytes(b'{"question": "a"}\n{"question": "caf\xe9"}\n')
    with pytest.raises(QuestionsError, match=r"line 2: is not UTF-8 text \(byte 0xe9\).*iconv -f WINDOWS-1252"):
        read_questions(tmp_path / "q.jsonl")
    (tmp_path / "q.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(QuestionsError, match="not readable as UTF-16"):
        read_questions(tmp_path / "q.jsonl")
    with pytest.raises(QuestionsError, match="no such questions file"):
        read_questions(tmp_path / "nowhere.jsonl")


def test_a_repeated_question_is_found_whatever_its_case_and_white_space() -> None:
    train, held = Question(id="a", question="How  many?"), Question(id="b", question="how many?")
    assert repeated_questions([train], [held]) == [held]
