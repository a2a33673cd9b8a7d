"""Digits with separators, as several countries write them, and the notation that a text shows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

NUMERAL = re.compile(r"\d+(?:[.,'_]\d+| \d{3}(?!\d))*|\.\d+")
WITHOUT_COMMAS = re.compile(r"\d+(?:['_]\d{3}(?!\d)| \d{3}(?!\d))*(?:\.\d+)?|\.\d+")
THOUSANDS = {mark: re.compile(rf"[1-9]\d{{0,2}}(?:{re.escape(mark)}\d{{3}})+") for mark in ",.'_ "}
INDIAN = re.compile(r"[1-9]\d?(?:,\d\d)+,\d{3}")
CHUNK = 4_000
"""Digits that Python converts at once, whatever limit is set for longer ones."""


@dataclass(frozen=True, slots=True)
class Numeral:
    """A number without its sign."""

    value: Fraction
    places: int | None = None
    """How many decimals are written."""


def read_numeral(text: str, comma: bool) -> Numeral | None:
    """The number that digits with separators stand for; None if no notation has such a number.

    A lone point before three digits is a decimal point and a lone comma there groups thousands (1.234 is not 1,234);
    where `comma` is set it is the other way round.

    >>> read_numeral("1.234,5", False), read_numeral("12,34,567", False).value
    (Numeral(value=Fraction(2469, 2), places=1), Fraction(1234567, 1))
    """
    decimal = decimal_mark(text, comma)
    if decimal is None:
        return None
    whole, _, decimals = text.partition(decimal) if decimal else (text, "", "")
    if not decimals and decimal:
        return None
    grouping = {char for char in whole if not char.isdigit()}
    if len(grouping) > 1 or (decimals and not decimals.isdigit()):
        return None
    if grouping and not THOUSANDS[grouping.pop()].fullmatch(whole) and not INDIAN.fullmatch(whole):
        return None
    digits = re.sub(r"\D", "", whole)
    value = integer(digits) + (Fraction(integer(decimals), 10 ** len(decimals)) if decimals else 0)
    return Numeral(Fraction(value), len(decimals) if decimals else None)


def decimal_mark(text: str, comma: bool) -> str | None:
    """The decimal mark of digits with separators: `.`, `,`, or `` for a whole number; None if they make no sense."""
    points, commas = text.count("."), text.count(",")
    if points and commas:
        mark = max(".,", key=text.rfind)
        return mark if text.count(mark) == 1 else None
    mark = "." if points else ","
    count = points or commas
    if count != 1:
        return ""
    if not is_open(text, mark):
        return mark
    return mark if (mark == ",") == comma else ""


def is_open(text: str, mark: str) -> bool:
    """Whether the only point or comma of a numeral could be a decimal mark as well as group thousands."""
    return THOUSANDS[mark].fullmatch(text) is not None


def shows_comma(text: str) -> bool | None:
    """Whether the numbers of a text are written with a decimal comma; None where they do not tell.

    >>> shows_comma("1.234,5"), shows_comma("0.5 of 12"), shows_comma("1,234")
    (True, False, None)
    """
    shown = set()
    for match in NUMERAL.finditer(text):
        digits = match[0]
        points, commas = digits.count("."), digits.count(",")
        if points and commas:
            shown.add(digits.rfind(",") > digits.rfind("."))
        elif points + commas == 1 and not is_open(digits, "." if points else ","):
            shown.add(commas == 1)
        elif points > 1 and THOUSANDS["."].fullmatch(digits):
            shown.add(True)
        elif commas > 1 and (THOUSANDS[","].fullmatch(digits) or INDIAN.fullmatch(digits)):
            shown.add(False)
    return shown.pop() if len(shown) == 1 else None


def integer(digits: str) -> int:
    """The whole number of a text of digits of any length."""
    value = 0
    for at in range(0, len(digits), CHUNK):
        chunk = digits[at : at + CHUNK]
        value = value * 10 ** len(chunk) + int(chunk)
    return value
