"""Files as people have them: what spreadsheets, pandas and other tools write, and what is broken in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meteor_agents.data.questions import read_questions
from meteor_agents.errors import QuestionsError
from tests.data.files import answers, parquet, read, refused

# Texts that Python holds, and files and stores cannot


@pytest.mark.parametrize("name", ["q.jsonl", "q.json"])
def test_half_an_emoji_and_nul_are_replaced(tmp_path: Path, name: str) -> None:
    line = r'{"id": "a\ud83d", "question": "x \ud83d and \u0000", "tags": {"\ude00": ["\ud83d"]}}'
    (question,) = read(tmp_path / name, line)
    assert (question.id, question.question) == ("a\ufffd", "x \ufffd and \ufffd")
    assert question.metadata == {"tags": {"\ufffd": ["\ufffd"]}}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"question": "a", "id": ' + "9" * 5000 + "}", "an integer of 5000 digits is too long"),
        ('{"question": "a", "m": ' + "[" * 2000 + "]" * 2000 + "}", "lists and objects are nested more than 100"),
        ('{"question": "a", "m": ' + "[" * 2000, "lists and objects are nested more than 100 levels deep"),
        ('{"question": "a", "m": ' + '{"a":' * 2000, "lists and objects are nested more than 100 levels deep"),
        ('{"question": "a\x01"}', "not JSON: Invalid control character"),
        ('{"question": ["a"]}', "question: Input should be a valid string"),
        ('{"question": {"text": "a"}}', "question: Input should be a valid string"),
        ("3", "must be a JSON object, is a number"),
        ("null", "must be a JSON object, is null"),
        ('"a"', "must be a JSON object, is a text"),
    ],
    ids=lambda text: text[:25],
)
def test_json_that_cannot_be_kept_is_refused_with_its_place(tmp_path: Path, line: str, complaint: str) -> None:
    assert f", line 2: {complaint}" in refused(tmp_path / "q.jsonl", f'{{"question": "b"}}\n{line}\n')
    array = refused(tmp_path / "q.json", f'[{{"question": "b"}},\n{line}\n]')
    assert complaint.partition(" at")[0] in array
    assert ", item 2: " in array or ("line 2: " in array and "(item 2)" in array)


def test_a_message_shows_control_characters_instead_of_sending_them_to_the_terminal(tmp_path: Path) -> None:
    assert r"found \x1b[31m" in refused(tmp_path / "q.jsonl", r'{"\u001b[31m": "a"}')
    many = json.dumps({f"column {n} " + "x" * 200: n for n in range(500)})
    assert "and 480 more" in refused_long(tmp_path / "q.jsonl", many)


def refused_long(path: Path, content: str) -> str:
    path.write_text(content)
    with pytest.raises(QuestionsError) as error:
        read_questions(path)
    return str(error.value)


# JSON


def test_the_content_tells_json_lines_from_an_array(tmp_path: Path) -> None:
    rows = [{"question": "a"}, {"question": "b [, ] \" {"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    for name in ("q.json", "q.jsonl", "q.ndjson"):
        for content in (lines, "\n\n" + lines, json.dumps(rows), "\n " + json.dumps(rows, indent=1), "\ufeff" + lines):
            assert [question.question for question in read(tmp_path / name, content)] == ["a", 'b [, ] " {']
    assert [q.question for q in read(tmp_path / "q.json", json.dumps(rows[0], indent=1))] == ["a"]


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("q.json", '[{"question": "a"}, {"question": "b"}', "line 1: not JSON: a comma or ] is missing after item 2"),
        ("q.json", '[{"question": "a"}\n{"question": "b"}]', "line 2: not JSON: a comma or ] is missing after item 1"),
        ("q.json", '[{"question": "a"}]\n{"question": "b"}', "line 2: not JSON: something follows the array"),
        ("q.json", '[{"question": "a"},\n]', ": holds"),
        ("q.json", '[{"question": "a"},\n"b"]', "item 2: must be a JSON object, is a text"),
        ("q.json", '[\n{"question": }]', "line 2: not JSON: Expecting value at column 14 (item 1)"),
        ("q.json", "[", "line 1: not JSON: Expecting value"),
        ("q.json", "[]", ": holds no question"),
        ("q.json", '{"question":\n"a"}\n{"question":\n"b"}', "line 3: not JSON: Extra data at column 1; write one object"),
        ("q.json", "", ": holds no question"),
        ("q.jsonl", "\n \n", ": holds no question"),
    ],
)
def test_what_is_wrong_in_json_is_said_with_its_line(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    if complaint == ": holds":  # a trailing comma, which is unambiguous
        assert len(read(tmp_path / name, text)) == 1
    else:
        assert complaint in refused(tmp_path / name, text)


# CSV


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_the_header_tells_the_separator(tmp_path: Path, separator: str) -> None:
    cells = [["question", "reference", "a, b; c"], ["Why,\tor; how?", "1,5", "x"]]
    text = "\r\n".join(separator.join(f'"{cell}"' for cell in row) for row in cells)
    (question,) = read(tmp_path / "q.csv", text)
    assert (question.question, question.reference, question.metadata) == ("Why,\tor; how?", "1,5", {"a, b; c": "x"})


def test_what_spreadsheets_add_is_ignored(tmp_path: Path) -> None:
    text = "question,reference,,\n\nWhy?,1,,\n,,,\nHow?,2,,\n,,,\n"
    assert [(q.question, q.metadata) for q in read(tmp_path / "q.csv", text)] == [("Why?", {}), ("How?", {})]
    text = "question,reference\nWhy?,1,\nHow?,2,,,\n"
    assert answers(read(tmp_path / "q.csv", text)) == ["1", "2"]
    text = " question , reference \nWhy?,1\n"
    assert answers(read(tmp_path / "q.csv", text)) == ["1"]


def test_a_cell_may_be_as_long_as_a_document(tmp_path: Path) -> None:
    long = "word " * 100_000
    (question,) = read(tmp_path / "q.csv", f"question,reference\n{long},1\n")
    assert len(question.question) == len(long.strip())


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["q.csv", "q.jsonl", "q.json"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path: Path, encoding: str, name: str) -> None:
    text = "question,reference\nWhy é?,1\n" if name == "q.csv" else '{"question": "Why é?", "reference": "1"}\n'
    assert [q.question for q in read(tmp_path / name, text.encode(encoding))] == ["Why é?"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("question,question,reference\na,b,c\n", "line 1: two columns are named 'question'; rename or remove one"),
        ("question,reference\na,b,c\n", "line 2: more fields than the header has (3 instead of 2, separated by commas)"),
        ("question;reference\na;b\nc;d;e\n", "line 3: more fields than the header has (3 instead of 2, separated by semi"),
        ("question\n\na\n\"open\nb\n", "line 4: not CSV: unexpected end of data (a quotation mark that is not closed?)"),
        ("question|reference\na|b\n", "line 2: the field 'question' is missing or empty; found question|reference"),
        ("question,reference\n", ": holds no question"),
        ("", ": holds no question"),
        ("reference\n1\n", "line 2: the field 'question' is missing or empty; found reference"),
    ],
)
def test_what_is_wrong_in_csv_is_said_with_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    assert complaint in refused(tmp_path / "q.csv", text)


def test_latin_1_is_refused_with_the_line_and_a_way_on(tmp_path: Path) -> None:
    text = "question\n" + "".join(f"plain {n}\n" for n in range(5000)) + "café\n"
    message = refused(tmp_path / "q.csv", text.encode("latin-1"))
    assert "line 5002: is not UTF-8 text (byte 0xe9)" in message
    assert "iconv -f WINDOWS-1252 -t UTF-8 FILE" in message
    assert "save the sheet as CSV" in refused(tmp_path / "q.xlsx", b"PK")
    assert "did you mean '.jsonl'" in refused(tmp_path / "q.jsnl", b"")


# Parquet


def test_values_that_are_no_text_are_named_with_row_and_column(tmp_path: Path) -> None:
    import datetime
    import decimal

    image = {"question": ["a", "b"], "picture": [None, {"bytes": b"\x89PNG", "path": "p.png"}]}
    with pytest.raises(QuestionsError, match=r"q.parquet, row 2, column 'picture': holds bytes, such as an image's"):
        read_questions(parquet(tmp_path / "q.parquet", image))
    kept = {"question": ["a"], "day": [datetime.date(2024, 5, 1)], "price": [decimal.Decimal("1.50")],
            "tags": [["x", "y"]], "map": [{"k": 1.5}]}  # fmt: skip
    (question,) = read_questions(parquet(tmp_path / "q.parquet", kept))
    assert question.metadata == {"day": "2024-05-01", "price": "1.50", "tags": ["x", "y"], "map": {"k": 1.5}}


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="reading Parquet needs pyarrow")
    import pyarrow.parquet as files

    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["question", "question"])
    files.write_table(table, tmp_path / "q.parquet")
    with pytest.raises(QuestionsError, match="two columns are named 'question'"):
        read_questions(tmp_path / "q.parquet")


def test_a_broken_parquet_file_is_one_message(tmp_path: Path) -> None:
    whole = parquet(tmp_path / "q.parquet", {"question": ["a"] * 100}).read_bytes()
    for broken in (b"", b"PAR1", whole[:-20], whole[:50] + b"\xff" * 50 + whole[100:], whole[: len(whole) // 2]):
        refused(tmp_path / "q.parquet", broken)
