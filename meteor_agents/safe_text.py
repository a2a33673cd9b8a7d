"""Text from outside, made safe to store, to parse and to print: replies, server messages, data files, keys."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

MAX_DEPTH = 100
"""Lists and objects inside one another in JSON that `parse_json` reads. Deeper values could not be stored again."""
MAX_DIGITS = 300
"""Digits of an integer that `parse_json` reads. Every such integer still fits a float."""

_PAIRS = re.compile("(?:[\ud800-\udbff][\udc00-\udfff])+")
_NOT_STORABLE = re.compile("[\ud800-\udfff\x00]")
_ESCAPED_NOT_STORABLE = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")
_NOT_PRINTABLE = re.compile(
    "\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff]"
)


def clean(text: str) -> str:
    """`text` as UTF-8 and SQLite can hold it: NUL and lone surrogates (half an emoji) become U+FFFD.

    Everything else stays, newlines and tabs included. Two surrogates that belong together become their character.

    >>> clean("half: \\ud83d")
    'half: \ufffd'
    """
    if "\0" not in text and (text.isascii() or not _NOT_STORABLE.search(text)):
        return text
    return _NOT_STORABLE.sub("\ufffd", _PAIRS.sub(_characters, text))


def parse_json(text: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The value that `text` holds as JSON, with every string and key in it made `clean`.

    `pairs` makes an object of its keys and values, where a plain dictionary will not do; it may raise `ValueError`. A byte
    order mark at the start is skipped. NaN and Infinity, which are not JSON but which pandas and others write for
    a missing number, and floats too large for a computer are read as None. Raises `ValueError`, and nothing else, for text
    that is not JSON (`json.JSONDecodeError`), for more than `MAX_DEPTH` levels of nesting and for an integer of more than
    `MAX_DIGITS` digits.

    >>> parse_json('{"score": NaN, "why": "half: \\\\ud83d"}')
    {'score': None, 'why': 'half: \ufffd'}
    """
    text = clean(text.removeprefix("\ufeff"))
    try:
        value = (_decoder(pairs) if pairs else _DECODER).decode(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(value)
    return _cleaned(value) if _ESCAPED_NOT_STORABLE.search(text) else value


def printable(text: str) -> str:
    """`text` for a terminal or an error message: what would move the cursor, colour, hide or reorder text is spelled out.

    Newlines and tabs stay. A control character, an escape sequence, a zero-width space, a byte order mark, a mark that
    changes the direction of writing or a lone surrogate is shown as its code.

    >>> printable("\\x1b[31mred")
    '\\\\x1b[31mred'
    """
    return _NOT_PRINTABLE.sub(lambda found: _code(ord(found.group())), text)


def _characters(pairs: re.Match[str]) -> str:
    return pairs[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le")


_TOO_DEEP = f"lists and objects are nested more than {MAX_DEPTH} levels deep"


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(digits.lstrip('-'))} digits is too long ({MAX_DIGITS} at most)")
    return int(digits)


def _float(number: str) -> float | None:
    value = float(number)
    return value if math.isfinite(value) else None


@lru_cache(maxsize=8)
def _decoder(pairs: Callable[[list[tuple[str, Any]]], Any] | None) -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=pairs, parse_int=_integer, parse_float=_float, parse_constant=lambda _: None
    )


_DECODER = _decoder(None)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level if isinstance(outer, dict | list) for inner in _inside(outer)]
        if not level:
            return
    raise ValueError(_TOO_DEEP)


def _inside(value: dict[str, Any] | list[Any]) -> Any:
    return value.values() if isinstance(value, dict) else value


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    if isinstance(value, dict):
        return {clean(key): _cleaned(item) for key, item in value.items()}
    return value


def _code(point: int) -> str:
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}"
