"""Questions from JSON, JSONL, CSV and Parquet files, with stable ids and a seeded hold-out."""

from __future__ import annotations

import csv
import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from meteor_agents.data.question_pool import QuestionPool
from meteor_agents.errors import MissingExtraError, QuestionsError
from meteor_agents.messages import Question

_FIELDS = tuple(Question.model_fields)
BATCH = 1000
"""Rows of a Parquet file in memory at once."""


class Row(NamedTuple):
    """One raw row, and where it stands for a person to find it: a line, or an item's number."""

    place: str
    values: Mapping[str, Any]


def read_questions(path: Path, fields: Mapping[str, str] | None = None) -> QuestionPool:
    """All questions of a file, in its order.

    `fields` maps our names to the file's, for example `{"question": "question_content", "title": "question_title"}`.
    Columns that are not ours become `metadata`. A row without an id gets one from its content, so it stays the same when
    rows are added or moved. Raises `QuestionsError` that names the file and the line.
    """
    if not path.is_file():
        raise QuestionsError(f"{path}: there is no such questions file (questions.path)")
    questions = QuestionPool.of(_distinct(path, fields or {}))
    if not questions:
        raise QuestionsError(f"{path}: holds no question")
    return questions


def _distinct(path: Path, fields: Mapping[str, str]) -> Iterator[Question]:
    seen: set[str] = set()
    for row in file_rows(path):
        question = _question(path, row, fields)
        if question.id in seen:
            what = "the same id" if "id" in row.values else "the same question"
            first = next(row.place for row in file_rows(path) if _question(path, row, fields).id == question.id)
            raise QuestionsError(f"{path}, {row.place}: {what} as {first} ({question.id!r})")
        seen.add(question.id)
        yield question


class SetApart(BaseModel):
    """Which rows a split set apart, and by which settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: tuple[int, int, int]
    """questions.holdout, questions.gate, questions.seed"""
    holdout: tuple[str, ...]
    gate: tuple[str, ...]


class Split(NamedTuple):
    """Disjoint parts of one file."""

    train: QuestionPool
    gate: list[Question]
    """A few questions that decide whether an update is kept; never trained on, never reported."""
    holdout: list[Question]

    def set_apart(self, *, holdout: int, gate: int, seed: int) -> SetApart:
        """What to hand to the next split as `before`."""
        return SetApart(
            settings=(holdout, gate, seed),
            holdout=tuple(question.id for question in self.holdout),
            gate=tuple(question.id for question in self.gate),
        )


def split_questions(
    questions: QuestionPool, *, holdout: int, gate: int, seed: int, before: SetApart | None = None
) -> Split:
    """A seeded split by id: the same rows are held out whatever the file's order. Training rows keep the file's order.

    `before` is the split that a run began with. Under the same settings it stays as it was: rows that were added since are
    for training, and no row that was trained on is ever held out.
    """
    if holdout + gate >= len(questions):
        raise QuestionsError(
            f"questions.holdout {holdout} and questions.gate {gate} leave nothing to train on: "
            f"the file holds {len(questions)} questions"
        )
    if before is not None and before.settings == (holdout, gate, seed):
        held, gated = set(before.holdout), set(before.gate)
    else:
        ids = sorted(questions.ids)
        random.Random(seed).shuffle(ids)
        held, gated = set(ids[:holdout]), set(ids[holdout : holdout + gate])
    return Split(
        train=questions.where(lambda id_: id_ not in held and id_ not in gated),
        gate=list(questions.where(gated.__contains__)),
        holdout=list(questions.where(held.__contains__)),
    )


def overlap(train: Iterable[Question], heldout: Sequence[Question]) -> list[Question]:
    """Held-out questions whose text, title included, occurs in training (case and white space aside)."""
    held = {_normal(question) for question in heldout}
    known = {text for question in train if (text := _normal(question)) in held}
    return [question for question in heldout if _normal(question) in known]


def _normal(question: Question) -> str:
    return " ".join(f"{question.title or ''} {question.question}".casefold().split())


def _question(path: Path, row: Row, fields: Mapping[str, str]) -> Question:
    values = dict(row.values)
    known: dict[str, Any] = {}
    for name in _FIELDS:
        column = fields.get(name, name)
        if column in values and values[column] not in (None, ""):
            known[name] = values.pop(column)
    if "question" not in known:
        column = fields.get("question", "question")
        raise QuestionsError(
            f"{path}, {row.place}: the field {column!r} is missing or empty; found {', '.join(row.values) or 'nothing'}"
            " (questions.fields maps other names)"
        )
    metadata = known.pop("metadata", {})
    if not isinstance(metadata, dict):
        raise QuestionsError(f"{path}, {row.place}: metadata must be an object")
    known["metadata"] = {**{k: v for k, v in values.items() if v not in (None, "")}, **metadata}
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
    return "q-" + hashlib.sha256(f"{title}\n{question}".encode()).hexdigest()[:12]


def file_rows(path: Path) -> Iterator[Row]:
    """Raises `QuestionsError` that names the file and the line."""
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise QuestionsError(f"{path}: unknown kind of file {path.suffix!r}; known: {', '.join(readers)}")
    try:
        yield from reader(path)
    except UnicodeDecodeError as error:
        raise QuestionsError(f"{path}: is not UTF-8 text: {error}") from error
    except OSError as error:
        raise QuestionsError(f"{path}: cannot be read: {error}") from error


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except json.JSONDecodeError as error:
                raise QuestionsError(f"{path}, line {number}: not JSON: {error.msg} at column {error.colno}") from error
            yield Row(f"line {number}", _object(path, f"line {number}", values))


def _json(path: Path) -> Iterator[Row]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise QuestionsError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from error
    if not isinstance(rows, list):
        raise QuestionsError(f"{path}: must hold a JSON array of objects")
    for number, values in enumerate(rows, 1):
        yield Row(f"item {number}", _object(path, f"item {number}", values))


def _csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        try:
            for values in reader:
                place = f"line {reader.line_num}"
                if None in values:
                    raise QuestionsError(f"{path}, {place}: more fields than the header has")
                yield Row(place, values)
        except csv.Error as error:
            raise QuestionsError(f"{path}, line {reader.reader.line_num}: {error}") from error


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(f"{path}: reading Parquet", "parquet") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            rows = (values for batch in file.iter_batches(BATCH) for values in batch.to_pylist())
            for number, values in enumerate(rows, 1):
                yield Row(f"row {number}", values)
    except pyarrow.ArrowException as error:
        raise QuestionsError(f"{path}: not a readable Parquet file: {error}") from error


def _object(path: Path, place: str, values: object) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise QuestionsError(f"{path}, {place}: must be a JSON object, is {type(values).__name__}")
    return values
