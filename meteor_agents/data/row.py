"""One raw row of a file, and values in it that can be stored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from meteor_agents.errors import QuestionsError
from meteor_agents.safe_text import MAX_DEPTH, MAX_DIGITS, clean, printable


class Row(NamedTuple):
    """One raw row, and where it stands for a person to find it: a line, an item's or a row's number."""

    place: str
    values: Mapping[str, Any]
    raw: bool = False
    """Values may be of any type, and texts may hold anything: they have to go through `plain`."""


def plain(value: Any, path: Path, place: str, column: str) -> Any:
    """`value` as JSON holds it: texts clean, dates and exact decimals as texts, NaN and infinities as None.

    Raises `QuestionsError` naming file, row and column for everything else, such as the bytes of an image.
    """
    try:
        return _plain(value)
    except ValueError as error:
        raise QuestionsError(f"{path}, {place}, column {printable(column)!r}: {error}") from error


def _plain(value: Any, depth: int = 0) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, int):
        if abs(value) >= 10**MAX_DIGITS:
            raise ValueError(f"holds an integer of more than {MAX_DIGITS} digits")
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth > MAX_DEPTH:
        raise ValueError(f"holds lists and objects nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        return {clean(str(key)): _plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, depth + 1) for inner in value]
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal | UUID | timedelta):
        return str(value)
    what = "bytes, such as an image's" if isinstance(value, bytes) else f"a value of the type {type(value).__name__}"
    raise ValueError(f"holds {what}, which a text model is not given; remove the column from the file")
