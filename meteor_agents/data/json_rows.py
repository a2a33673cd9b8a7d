"""Rows of JSON files: one object a line, or an array of objects. The content decides, not the file's name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from meteor_agents.data.row import Row
from meteor_agents.errors import QuestionsError
from meteor_agents.safe_text import MAX_DEPTH, parse_json
from meteor_agents.text_encoding import encoding_of


def json_rows(path: Path) -> Iterator[Row]:
    """The objects of a JSON or JSONL file. Raises `QuestionsError` naming the line or the item."""
    with path.open("rb") as file:
        encoding = encoding_of(file.read(4))
    with path.open(encoding=encoding) as lines:
        first = next((line for line in lines if line.strip()), "")
    if first.lstrip().startswith("["):
        return _array(path, path.read_text(encoding=encoding))
    if path.suffix.lower() == ".json" and not _is_json(first):
        return iter([_one_object(path, path.read_text(encoding=encoding))] if first else [])
    return _lines(path, encoding)


def _lines(path: Path, encoding: str) -> Iterator[Row]:
    with path.open(encoding=encoding) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                place = f"line {number}"
                yield Row(place, _object(path, place, _parsed(path, place, line)))


def _array(path: Path, text: str) -> Iterator[Row]:
    """The items one by one: parsing all at once would need several times the file's size."""
    at = _after_space(text, text.index("[") + 1)
    number = 0
    while not text.startswith("]", at):
        number += 1
        place = f"item {number}"
        try:
            _, end = _FINDS_END.raw_decode(text, at)
        except RecursionError:
            sentence = f"lists and objects are nested more than {MAX_DEPTH} levels deep"
            raise QuestionsError(f"{path}, {place}: {sentence}") from None
        except json.JSONDecodeError as error:
            raise QuestionsError(
                f"{path}, line {error.lineno}: not JSON: {error.msg} at column {error.colno} ({place})"
            ) from error
        yield Row(place, _object(path, place, _parsed(path, place, text[at:end])))
        at = _after_space(text, end)
        if text.startswith(",", at):
            at = _after_space(text, at + 1)
        elif not text.startswith("]", at):
            raise QuestionsError(f"{path}, {_line(text, at)}: not JSON: a comma or ] is missing after {place}")
    if rest := text[at + 1 :].lstrip():
        raise QuestionsError(f"{path}, {_line(text, len(text) - len(rest))}: not JSON: something follows the array")


def _one_object(path: Path, text: str) -> Row:
    """A file that is one object over several lines."""
    try:
        return Row("item 1", _object(path, "item 1", parse_json(text)))
    except json.JSONDecodeError as error:
        hint = "; write one object a line, or an array of objects" if error.msg == "Extra data" else ""
        raise QuestionsError(
            f"{path}, line {error.lineno}: not JSON: {error.msg} at column {error.colno}{hint}"
        ) from error
    except ValueError as error:
        raise QuestionsError(f"{path}, item 1: {error}") from error


def _parsed(path: Path, place: str, text: str) -> Any:
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise QuestionsError(f"{path}, {place}: not JSON: {error.msg} at column {error.colno}") from error
    except ValueError as error:
        raise QuestionsError(f"{path}, {place}: {error}") from error


def _object(path: Path, place: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise QuestionsError(f"{path}, {place}: must be a JSON object, is {_KINDS.get(type(value), 'null')}")
    return value


_KINDS = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false"}
_FINDS_END = json.JSONDecoder(parse_int=str, parse_float=str)
"""Only tells where an item ends. Numbers are left alone, since one may be too long to be read."""
_SPACE = re.compile(r"[ \t\r\n]*")


def _is_json(text: str) -> bool:
    try:
        parse_json(text)
    except json.JSONDecodeError:
        return False
    except ValueError:
        return True  # too deep or too long; said with its line
    return True


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _line(text: str, at: int) -> str:
    return f"line {text.count(chr(10), 0, at) + 1}"
