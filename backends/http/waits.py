"""How long a server wants to be left alone, from the headers and the words that servers use for it.

All of these are understood, and all come back as seconds from now:

- `retry-after-ms`, `x-ms-retry-after-ms`: milliseconds (OpenAI, Azure).
- `Retry-After`: seconds, a duration such as `1s`, or an HTTP date.
- `x-ratelimit-reset…`, `anthropic-ratelimit-…-reset`: seconds, durations such as `6m0s` or `120ms`, times since the epoch in
  seconds or milliseconds, ISO 8601 and HTTP dates.
- `retryDelay` in a Gemini error, and sentences such as "Please try again in 20s".

A date counts from the reply's own `Date`, because the server's clock and ours may differ. What is negative, not finite,
longer than `LONGEST_S` or not understood counts as not said.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_S = 31 * 86_400
"""No server means to be left alone for longer than a month: a longer wait is a misunderstanding."""

_EPOCH_S = 1_000_000_000
"""A reset that is a larger number than this is a time since the epoch: 2001 in seconds, and in no finer unit a wait."""
_FINER_THAN_SECONDS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))
"""A time since the epoch beyond the first number is in nano-, micro- or milliseconds; the second: how many to a second."""
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PART = r"\d{1,15}(?:\.\d{1,15})? ?(?:milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)"
_DURATION = re.compile(rf"(?:{_PART}[ ,]{{0,2}}){{1,6}}", re.IGNORECASE | re.ASCII)
_DURATION_PART = re.compile(r"(\d{1,15}(?:\.\d{1,15})?) ?([a-z]+)", re.IGNORECASE | re.ASCII)
_IN_WORDS = re.compile(
    rf"(?:try again|retry|wait)[a-z ]{{0,40}}? ((?:{_PART}[ ,]{{0,2}}){{1,6}})(?![a-z0-9])", re.IGNORECASE | re.ASCII
)
_MILLISECONDS = ("retry-after-ms", "x-ms-retry-after-ms")
_PLAIN = ("retry-after", "x-ratelimit-reset-after")
_ALLOWANCES = (
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ("x-ratelimit-remaining", "x-ratelimit-reset"),
    ("ratelimit-remaining", "ratelimit-reset"),
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
    ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
    ("anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"),
    ("anthropic-ratelimit-output-tokens-remaining", "anthropic-ratelimit-output-tokens-reset"),
)
"""What is left of an allowance, and when it is renewed."""


def asked_wait_s(headers: Mapping[str, str], words: str = "") -> float | None:
    """Seconds that a failed call should wait before it is made again, as the server asked; None if it did not ask.

    `headers` have names in lower case; `words` is the error's message. A header that asks outright comes first, then the
    renewal of an allowance that is used up, then the sentence in the message.
    """
    now_s = _now_s(headers)
    for name in _MILLISECONDS:
        if (milliseconds := _number(headers.get(name))) is not None:
            return _sensible(milliseconds / 1000)
    for name in _PLAIN:
        if (asked_s := wait_s(headers.get(name), now_s)) is not None:
            return asked_s
    if exhausted := exhausted_s(headers):
        return exhausted
    if found := _IN_WORDS.search(words[:4000]):
        return _sensible(_duration_s(found[1]))
    return None


def exhausted_s(headers: Mapping[str, str]) -> float:
    """Seconds until an allowance that is used up is renewed, by the rate-limit headers of a reply; 0 if none is used up."""
    if not any("ratelimit" in name for name in headers):
        return 0.0
    now_s = _now_s(headers)
    waits = [
        wait_s(headers.get(reset), now_s)
        for left, reset in _ALLOWANCES
        if (remaining := _number(headers.get(left))) is not None and remaining <= 0
    ]
    return max((seconds for seconds in waits if seconds is not None), default=0.0)


def wait_s(value: str | None, now_s: float | None = None) -> float | None:
    """Seconds from `now_s` (since the epoch; default: now) that `value` stands for, in any of the forms above; else None.

    >>> wait_s("1m30s"), wait_s("250ms"), wait_s("2.5"), wait_s("soon")
    (90.0, 0.25, 2.5, None)
    """
    if value is None:
        return None
    value = value.strip()
    now_s = time.time() if now_s is None else now_s
    number = _number(value)
    if number is not None:
        return _sensible(max(0.0, _since_epoch_s(number) - now_s) if number > _EPOCH_S else number)
    if _DURATION.fullmatch(value):
        return _sensible(_duration_s(value))
    moment_s = _moment_s(value)
    return None if moment_s is None else _sensible(max(0.0, moment_s - now_s))


def _sensible(seconds: float) -> float | None:
    return seconds if 0 <= seconds <= LONGEST_S else None


def _number(value: str | None) -> float | None:
    try:
        number = float(value) if value and len(value) < 40 and value.isascii() else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _since_epoch_s(number: float) -> float:
    for above, per_second in _FINER_THAN_SECONDS:
        if number > above:
            return number / per_second
    return number


def _duration_s(value: str) -> float:
    return sum(float(number) * _unit_s(unit.lower()) for number, unit in _DURATION_PART.findall(value))


def _unit_s(unit: str) -> float:
    short = "ms" if unit in ("ms", "millisecond", "milliseconds") else unit[0]
    return _UNITS_S[short]


def _moment_s(value: str) -> float | None:
    """An ISO 8601 or HTTP date, in seconds since the epoch. One without a time zone is in UTC."""
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = read(value[:100])
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
    return None


def _now_s(headers: Mapping[str, str]) -> float:
    """The server's clock where it says what that shows, else ours."""
    there = _moment_s(headers["date"]) if "date" in headers else None
    return time.time() if there is None else there
