"""A user's own examples to fine-tune on: rows of `messages`, or of `prompt` and `completion`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from meteor_agents.data.file_rows import file_rows
from meteor_agents.data.row import Row, plain
from meteor_agents.errors import UsageError
from meteor_agents.models import ChatMessage
from meteor_agents.safe_text import printable
from meteor_agents.training import ChatExample, Example

_MESSAGES: TypeAdapter[tuple[ChatMessage, ...]] = TypeAdapter(tuple[ChatMessage, ...])


def read_own_rows(path: Path) -> list[Example | ChatExample]:
    """All rows of a JSONL, JSON, CSV or Parquet file, as they stand: no prompt template is added.

    `messages` is a chat, every reply of which is learned. `prompt` is a text (the user's turn) or messages, and
    `completion` a text or one assistant message. Keys of a message that hold null are ignored, as Parquet adds them. `id`
    names a row in messages to people; other columns are not read. Raises `UsageError` naming the file and the line.
    """
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file")
    rows = [_row(path, row) for row in file_rows(path)]
    if not rows:
        raise UsageError(f"{path}: holds no row")
    return rows


def _row(path: Path, row: Row) -> Example | ChatExample:
    values = {name: row.values[name] for name in _COLUMNS if name in row.values}
    if row.raw:
        values = {name: plain(value, path, row.place, name) for name, value in values.items()}
    try:
        return _read(str(values.get("id") or row.place), values, tuple(row.values))
    except (ValidationError, ValueError) as error:
        raise UsageError(f"{path}, {row.place}: {_sentence(error)}") from error


_COLUMNS = ("id", "messages", "prompt", "completion")


def _read(id_: str, values: Mapping[str, Any], columns: Sequence[str]) -> Example | ChatExample:
    if values.get("messages") is not None:
        messages = _messages("messages", values["messages"])
    elif values.get("prompt") is not None and values.get("completion") is not None:
        prompt, completion = values["prompt"], values["completion"]
        asked = (ChatMessage(role="user", content=prompt),) if isinstance(prompt, str) else _messages("prompt", prompt)
        said = (
            (ChatMessage(role="assistant", content=completion),)
            if isinstance(completion, str)
            else _messages("completion", completion)
        )
        if len(said) != 1:
            raise ValueError(f"completion must be one reply, not {len(said)} messages")
        messages = (*asked, *said)
        if any(message.role == "assistant" for message in asked):
            return _example(id_, messages)  # the prompt's replies were not asked to be learned
    else:
        raise ValueError(f"needs messages, or prompt and completion; found {_listed(columns)}")
    if sum(message.role == "assistant" for message in messages) > 1:
        return _not_empty(ChatExample(id=id_, messages=messages))
    return _example(id_, messages)


def _listed(columns: Sequence[str]) -> str:
    names = ", ".join(printable(name)[:60] for name in columns[:20]) or "nothing"
    return f"{names} and {len(columns) - 20} more" if len(columns) > 20 else names


def _example(id_: str, messages: Sequence[ChatMessage]) -> Example:
    if len(messages) < 2 or messages[-1].role != "assistant":
        raise ValueError("the last message must be the assistant's, and another must come before it")
    *prompt, reply = messages
    if not reply.content.strip():
        raise ValueError("the reply to learn is empty")
    return Example(id=id_, prompt=tuple(prompt), target=reply.content)


def _not_empty(chat: ChatExample) -> ChatExample:
    if not all(message.content.strip() for message in chat.messages if message.role == "assistant"):
        raise ValueError("a reply to learn is empty")
    return chat


def _messages(field: str, value: object) -> tuple[ChatMessage, ...]:
    if isinstance(value, list):
        value = [_without_nulls(message) for message in value]
    try:
        return _MESSAGES.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{field}{'.' + where if where else ''}: {first['msg']}") from error


def _without_nulls(message: object) -> object:
    """A message without its keys that hold null; `role` and `content` stay, so that they are said to be missing."""
    if not isinstance(message, Mapping):
        return message
    return {name: value for name, value in message.items() if value is not None or name in ("role", "content")}


def _sentence(error: ValueError) -> str:
    message = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
    return message.removeprefix("Value error, ")
