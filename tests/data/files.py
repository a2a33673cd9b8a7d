"""Files to read questions from, made by tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meteor_agents.data.questions import read_questions
from meteor_agents.errors import QuestionsError
from meteor_agents.messages import Question


def read(path: Path, content: str | bytes, fields: dict[str, str] | None = None) -> list[Question]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_questions(path, fields))


def refused(path: Path, content: str | bytes) -> str:
    with pytest.raises(QuestionsError) as error:
        read(path, content)
    message = str(error.value)
    assert message.startswith(str(path))
    assert len(message) < 600
    message.encode()
    return message.removeprefix(str(path))


def parquet(path: Path, columns: dict[str, Any]) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="reading Parquet needs pyarrow")
    import pyarrow.parquet as files

    files.write_table(pyarrow.table(columns), path)
    return path


def answers(questions: list[Question]) -> list[str | None]:
    return [question.reference for question in questions]
