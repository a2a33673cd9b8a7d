"""Questions from JSON, JSONL, CSV and Parquet files, with stable ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from meteor_agents.data.csv_rows import csv_rows
from meteor_agents.data.file_rows import READERS, file_rows
from meteor_agents.data.number_columns import NumberColumns, is_gap
from meteor_agents.data.question_pool import QuestionPool
from meteor_agents.data.row import Row, plain
from meteor_agents.errors import QuestionsError
from meteor_agents.messages import Question
from meteor_agents.safe_text import clean, printable

_FIELDS = tuple(Question.model_fields)


def read_questions(path: Path, fields: Mapping[str, str] | None = None) -> QuestionPool:
    """All questions of a file, in its order.

    `fields` maps our names to the file's, for example `{"question": "question_content", "title": "question_title"}`.
    Columns that are not ours become `metadata`. A row without an id gets one made from its content, so it stays the same
    when rows are added or moved. NaN, null and empty values count as absent. Raises `QuestionsError` naming the file and the
    line.
    """
    if not path.is_file():
        raise QuestionsError(f"{path}: there is no such questions file (questions.path)")
    columns = NumberColumns(texts_are_numbers=READERS.get(path.suffix.lower()) is csv_rows)
    questions = QuestionPool.of(_distinct(path, fields or {}, columns, seen=False))
    if columns.change_something:  # only known once all rows were seen
        questions = QuestionPool.of(_distinct(path, fields or {}, columns, seen=True))
    if not questions:
        raise QuestionsError(f"{path}: holds no question")
    return questions


def _distinct(path: Path, fields: Mapping[str, str], columns: NumberColumns, *, seen: bool) -> Iterator[Question]:
    """The questions, with values as `columns` says they were meant once it has `seen` all rows."""
    known: set[str] = set()
    for row in file_rows(path):
        if not seen:
            columns.see(row.values)
        question = _question(path, _meant(row, columns) if seen else row, fields)
        if question.id in known:
            what = "the same id" if fields.get("id", "id") in row.values else "the same question"
            first = _first_place(path, fields, columns, question.id, seen=seen)
            raise QuestionsError(f"{path}, {row.place}: {what} as {first} ({printable(question.id)!r})")
        known.add(question.id)
        yield question


def _meant(row: Row, columns: NumberColumns) -> Row:
    return row._replace(values={name: columns.meant(name, value) for name, value in row.values.items()})


def _first_place(path: Path, fields: Mapping[str, str], columns: NumberColumns, id_: str, *, seen: bool) -> str:
    for row in file_rows(path):
        if _question(path, _meant(row, columns) if seen else row, fields).id == id_:
            return row.place
    return "another row"


def _question(path: Path, row: Row, fields: Mapping[str, str]) -> Question:
    values = {name: value for name, value in row.values.items() if not is_gap(value)}
    if row.raw:
        values = {clean(name): plain(value, path, row.place, name) for name, value in values.items()}
    known = {name: values.pop(column) for name in _FIELDS if (column := fields.get(name, name)) in values}
    if "question" not in known:
        column = fields.get("question", "question")
        raise QuestionsError(
            f"{path}, {row.place}: the field {column!r} is missing or empty; found {_listed(row.values)}"
            " (questions.fields maps other names)"
        )
    metadata = known.pop("metadata", {})
    if not isinstance(metadata, dict):
        raise QuestionsError(f"{path}, {row.place}: metadata must be an object")
    known["metadata"] = {**values, **metadata}
    for name in ("id", "reference", "title", "reasoning"):
        if isinstance(known.get(name), int | float):
            known[name] = str(known[name])
    known.setdefault("id", content_id(str(known.get("title") or ""), str(known["question"])))
    try:
        return Question.model_validate(known)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise QuestionsError(f"{path}, {row.place}: {field}: {first['msg']}") from error


def content_id(title: str, question: str) -> str:
    """The id of a row that has none: a hash of its text."""
    return "q-" + hashlib.sha256(f"{title}\n{question}".encode()).hexdigest()[:12]


def _listed(values: Mapping[str, Any]) -> str:
    """The names of some columns, for a message."""
    names = [printable(name)[:60] for name in values]
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return (", ".join(names[:20]) or "nothing") + more
