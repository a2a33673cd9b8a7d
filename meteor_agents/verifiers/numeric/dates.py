"""Dates and times of day as people write them."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass

NAMES = (
    "january jan januar janvier enero", "february feb februar février febrero", "march mar märz mars marzo",
    "april apr avril abril", "may mai mayo", "june jun juni juin junio", "july jul juli juillet julio",
    "august aug août agosto", "september sep sept septembre septiembre", "october oct oktober okt octobre octubre",
    "november nov novembre noviembre", "december dec dezember dez décembre diciembre",
)  # fmt: skip
MONTHS = {name: number for number, names in enumerate(NAMES, 1) for name in names.split()}
MONTH = rf"(?P<month>{'|'.join(sorted(MONTHS, key=len, reverse=True))})\b\.?"
DAY, YEAR = r"(?P<day>\d{1,2})(?:st|nd|rd|th|er|\.|º)?", r"(?P<year>\d{4})"
WEEKDAY = r"(?:(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?,? )?"
NO_MORE = r"(?![\d/]|[-.]\d)"
SHAPES = tuple(
    re.compile(shape + NO_MORE, re.IGNORECASE)
    for shape in (
        r"(?P<year>\d{4})(?P<sep>[-/.])(?P<m>\d{1,2})(?P=sep)(?P<day>\d{1,2})(?=T\d|\b)",
        r"(?P<year>\d{4}) ?年 ?(?P<m>\d{1,2}) ?月(?: ?(?P<day>\d{1,2}) ?日)?",
        r"(?P<year>\d{4})-(?P<m>0[1-9]|1[0-2])\b",
        rf"{WEEKDAY}{DAY} (?:of |de )?{MONTH},?(?: (?:de )?{YEAR})?",
        rf"{WEEKDAY}{MONTH} {DAY}(?!\d),?(?: {YEAR})?",
        rf"{MONTH},? (?:de )?{YEAR}",
        r"(?P<first>\d{1,2})(?P<sep>[/.-])(?P<second>\d{1,2})(?P=sep)(?P<year>\d{4})",
    )
)
CLOCK = re.compile(
    r"(?P<hour>\d{1,2})(?:[:h](?P<minute>\d{2})(?::(?P<second>\d{2}))?)? ?(?P<half>[ap]\.?m\b\.?|Uhr\b|o'clock\b)?"
    r"(?: ?(?P<zone>UTC|GMT|Z|[ECMP][SD]?T|CES?T|BST|JST|IST)\b)?(?![:\d]|[.,]\d)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class When:
    """A date, a time of day, or both. What is not written is None."""

    year: int | None = None
    month: int | None = None
    day: int | None = None
    seconds: int | None = None
    """Seconds since midnight."""
    zone: str = ""
    ambiguous: bool = False
    """Whether day and month may be the other way round, as in 05/01/2024."""

    def matches(self, other: When) -> bool:
        """Whether both name the same moment in the same detail. An ambiguous date matches only its like."""
        zones = not self.zone or not other.zone or self.zone == other.zone
        return zones and self.parts() == other.parts() and self.ambiguous == other.ambiguous

    def may_match(self, other: When) -> bool:
        """Whether one is ambiguous and, read in one of its two ways, is the other."""
        if self.ambiguous == other.ambiguous:
            return False
        year, month, day, seconds = self.parts()
        return other.parts() in ((year, month, day, seconds), (year, day, month, seconds))

    def parts(self) -> tuple[int | None, int | None, int | None, int | None]:
        """Year, month, day and seconds."""
        return self.year, self.month, self.day, self.seconds

    def view(self) -> str:
        """One text for each moment."""
        date = "-".join("?" if part is None else str(part) for part in (self.year, self.month, self.day))
        return f"{date} {self.seconds} {self.zone}{' day or month first' if self.ambiguous else ''}".rstrip()


def read_when(text: str, at: int) -> tuple[When, int] | None:
    """The date or time of day that begins at a place of a text, and where it ends."""
    for shape in SHAPES:
        if (match := shape.match(text, at)) and (date := date_of(match.groupdict())):
            joined = re.compile(r"T|,? (?:at |um )?").match(text, match.end())
            clock = read_clock(text, joined.end(), with_minutes=True) if joined else None
            if clock is None:
                return date, match.end()
            time, end = clock
            return When(date.year, date.month, date.day, time.seconds, time.zone, date.ambiguous), end
    return read_clock(text, at, with_minutes=False)


def date_of(parts: dict[str, str | None]) -> When | None:
    """The date of a match's parts; None for one that no calendar has."""
    year = int(parts["year"] or 0) if parts.get("year") else None
    if parts.get("first") and parts.get("second"):
        first, second = int(parts["first"] or 0), int(parts["second"] or 0)
        if parts["sep"] == "." or first > 12:
            return checked(year, second, first)
        date = checked(year, first, second)
        unclear = second <= 12 and first != second
        return When(date.year, date.month, date.day, ambiguous=unclear) if date else None
    month = int(parts["m"] or 0) if parts.get("m") else MONTHS[(parts["month"] or "").lower()]
    return checked(year, month, int(parts["day"] or 0) if parts.get("day") else None)


def checked(year: int | None, month: int, day: int | None) -> When | None:
    """The date, or None if the calendar has no such day. Without a year, 29 February exists."""
    try:
        datetime.date(2000 if year is None else year, month, 1 if day is None else day)
    except ValueError:
        return None
    return When(year, month, day)


def read_clock(text: str, at: int, *, with_minutes: bool) -> tuple[When, int] | None:
    """The time of day at a place: `10:30`, `9:30 pm`, `9am`, `21h15`."""
    match = CLOCK.match(text, at)
    if not match or not (match["minute"] or (match["half"] and not with_minutes)):
        return None
    hour, minute, second = int(match["hour"]), int(match["minute"] or 0), int(match["second"] or 0)
    half = (match["half"] or "").lower()[:1]
    if hour > 24 or minute > 59 or second > 59 or (half in ("a", "p") and not 1 <= hour <= 12):
        return None
    if half in ("a", "p"):
        hour = hour % 12 + 12 * (half == "p")
    zone = (match["zone"] or "").upper().replace("GMT", "UTC")
    zone = "UTC" if zone == "Z" else zone
    return When(seconds=hour * 3600 + minute * 60 + second, zone=zone), match.end()
