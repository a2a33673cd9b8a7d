"""Rows of Parquet files; needs the extra `parquet`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from meteor_agents.data.row import Row
from meteor_agents.errors import MissingExtraError, QuestionsError
from meteor_agents.safe_text import printable

BATCH = 1000
"""Rows in memory at once."""


def parquet_rows(path: Path) -> Iterator[Row]:
    """The rows, a batch at a time. Raises `QuestionsError`, or `MissingExtraError` without pyarrow."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(f"{path}: reading Parquet", "parquet") from error
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise QuestionsError(f"{path}: two columns are named {printable(twice)!r}; rename or remove one of them")
            for batch in file.iter_batches(BATCH):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"row {number}", values, raw=True)
    except pyarrow.ArrowException as error:
        raise QuestionsError(f"{path}: not a readable Parquet file: {_sentence(error)}") from error
    except (ValueError, OverflowError) as error:  # a date or a text that Python cannot hold
        raise QuestionsError(f"{path}, after row {number}: holds a value that cannot be read: {_sentence(error)}") from error


def _sentence(error: Exception) -> str:
    return printable(" ".join(str(error).split())[:300])
