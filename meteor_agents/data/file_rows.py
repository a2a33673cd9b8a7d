"""Rows of JSON, JSONL, CSV and Parquet files, whatever their columns mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from meteor_agents.data.csv_rows import csv_rows
from meteor_agents.data.json_rows import json_rows
from meteor_agents.data.parquet_rows import parquet_rows
from meteor_agents.data.row import Row
from meteor_agents.errors import QuestionsError
from meteor_agents.nearest import did_you_mean
from meteor_agents.safe_text import printable
from meteor_agents.text_encoding import decoded

READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": json_rows,
    ".ndjson": json_rows,
    ".json": json_rows,
    ".csv": csv_rows,
    ".tsv": csv_rows,
    ".parquet": parquet_rows,
}


def file_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, one at a time. Raises `QuestionsError` naming the file and the line, item or row.

    JSON lines, a JSON array and the separators of CSV are recognised by the content. Texts are UTF-8, or UTF-16
    with a byte order mark.
    """
    suffix = path.suffix.lower()
    if suffix not in READERS:
        hint = "save the sheet as CSV" if suffix in (".xlsx", ".xls", ".ods") else did_you_mean(suffix, READERS)
        raise QuestionsError(f"{path}: unknown kind of file {printable(suffix)!r}; {hint}")
    try:
        yield from READERS[suffix](path)
    except UnicodeDecodeError as error:
        raise QuestionsError(f"{path}, {_where(path, error)}") from error
    except OSError as error:
        raise QuestionsError(f"{path}: cannot be read: {error.strerror or error}") from error


def _where(path: Path, error: UnicodeDecodeError) -> str:
    """The line that is not UTF-8. The reader was in the middle of a block, so the file is looked at again."""
    try:
        decoded(path.read_bytes())
    except ValueError as problem:
        return str(problem)
    return str(error)
