"""Which columns hold whole numbers that were written as 5.0 only because other rows have no value."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_EXACT = 2.0**53
"""Beyond it, a float does not tell neighbouring integers apart."""
_WHOLE = re.compile(r"[+-]?\d+\.0")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_NOT_A_NUMBER = frozenset({"nan", "-nan", "null", "none", "na", "n/a", "<na>"})


def is_gap(value: Any) -> bool:
    """No value: None, NaN, or a text of white space."""
    return value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, float) and value != value)


@dataclass(slots=True)
class _Column:
    values: int = 0
    whole_floats: int = 0
    """5.0, or in CSV the text 5.0."""
    other_numbers: int = 0
    not_a_number: int = 0
    """The texts `nan`, `NA` and the like."""
    texts: int = 0


class NumberColumns:
    """What was seen in each column of a file, and the values as they were meant.

    pandas keeps a column of integers with gaps as floats, and writes them as 5.0. They are read as 5 again if every value of
    the column is a whole number, at least one was written as a float, and at least one row has none.

    >>> columns = NumberColumns(texts_are_numbers=False)
    >>> for row in ({"answer": 5.0}, {"answer": None}):
    ...     columns.see(row)
    >>> columns.meant("answer", 5.0)
    5
    """

    def __init__(self, *, texts_are_numbers: bool) -> None:
        """`texts_are_numbers`: the file is CSV, where everything is a text."""
        self._texts_are_numbers = texts_are_numbers
        self._columns: dict[str, _Column] = {}
        self._rows = 0

    def see(self, row: Mapping[str, Any]) -> None:
        """Take note of one row."""
        self._rows += 1
        for name, value in row.items():
            column = self._columns.get(name)
            if (column is not None and column.texts) or is_gap(value):
                continue  # a column with any text is left as it is
            if column is None:
                column = self._columns[name] = _Column()
            column.values += 1
            if isinstance(value, str):
                self._see_text(column, value.strip())
            elif isinstance(value, bool) or not isinstance(value, int | float):
                column.texts += 1
            elif isinstance(value, float) and math.isfinite(value) and value.is_integer() and abs(value) < _EXACT:
                column.whole_floats += 1
            elif isinstance(value, int):
                pass
            else:
                column.other_numbers += 1

    def _see_text(self, column: _Column, text: str) -> None:
        if self._texts_are_numbers and text.casefold() in _NOT_A_NUMBER:
            column.not_a_number += 1
        elif self._texts_are_numbers and _WHOLE.fullmatch(text):
            column.whole_floats += 1
        elif self._texts_are_numbers and _NUMBER.fullmatch(text):
            column.other_numbers += 1
        else:
            column.texts += 1

    @property
    def change_something(self) -> bool:
        """Whether `meant` returns another value for any column."""
        return any(self._is_whole(name) or self._has_gap_words(name) for name in self._columns)

    def meant(self, name: str, value: Any) -> Any:
        """The value as it was meant, once all rows have been seen."""
        if is_gap(value):
            return None
        if self._has_gap_words(name) and isinstance(value, str) and value.strip().casefold() in _NOT_A_NUMBER:
            return None
        if self._is_whole(name):
            if isinstance(value, float):
                return int(value)
            if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
                return value.strip().removesuffix(".0")
        return value

    def _is_whole(self, name: str) -> bool:
        column = self._columns.get(name)
        return (
            column is not None
            and column.whole_floats > 0
            and column.texts == column.other_numbers == 0
            and column.values - column.not_a_number < self._rows
        )

    def _has_gap_words(self, name: str) -> bool:
        """The texts `nan` and the like are gaps in a column of numbers, and texts in every other."""
        column = self._columns.get(name)
        return (
            column is not None
            and column.not_a_number > 0
            and column.texts == 0
            and column.whole_floats + column.other_numbers > 0
        )
