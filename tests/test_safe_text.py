"""Text from outside: what can be stored, parsed and printed without harm."""

from __future__ import annotations

import doctest
import json
import math
import sqlite3
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meteor_agents import safe_text
from meteor_agents.safe_text import MAX_DEPTH, MAX_DIGITS, clean, parse_json, printable

ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=()))


def test_examples_in_the_docstrings_are_true() -> None:
    assert doctest.testmod(safe_text).attempted == 3
    assert doctest.testmod(safe_text).failed == 0


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain\n\ttext, ünïcode, 😀, \u200b, \x1b", "plain\n\ttext, ünïcode, 😀, \u200b, \x1b"),
        ("half \ud83d", "half \ufffd"),
        ("\ude00x", "\ufffdx"),
        ("a\ud83dx", "a\ufffdx"),
        ("\ud83d\ud83d\ude00", "\ufffd😀"),
        ("a\0b", "a\ufffdb"),
        ("", ""),
    ],
)
def test_only_what_cannot_be_stored_is_replaced(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


@given(ANY_TEXT)
def test_cleaned_text_is_stored_and_read_back(text: str) -> None:
    cleaned = clean(text)
    with sqlite3.connect(":memory:") as db:
        assert db.execute("SELECT ?", (cleaned,)).fetchone() == (cleaned,)
    db.close()
    assert cleaned.encode().decode() == cleaned
    assert clean(cleaned) == cleaned


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1, "b": [2.5, null, true]}', {"a": 1, "b": [2.5, None, True]}),
        ('\ufeff{"a": 1}', {"a": 1}),
        ("[NaN, Infinity, -Infinity, 1e999]", [None, None, None, None]),
        ('{"k \\ud83d": "v \\ud83d \\u0000"}', {"k \ufffd": "v \ufffd \ufffd"}),
        ('"\\ud83d\\ude00"', "😀"),
        ('"half \ud83d"', "half \ufffd"),
        ("1" + "0" * (MAX_DIGITS - 1), 10 ** (MAX_DIGITS - 1)),
        ("[" * MAX_DEPTH + "]" * MAX_DEPTH, json.loads("[" * MAX_DEPTH + "]" * MAX_DEPTH)),
    ],
)
def test_json_is_read_with_clean_strings(text: str, value: Any) -> None:
    assert parse_json(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": ' + "9" * 5000 + "}", "an integer of 5000 digits is too long"),
        ("-" + "9" * (MAX_DIGITS + 1), f"an integer of {MAX_DIGITS + 1} digits is too long"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested more than 100 levels deep"),
        ("[" * 2000 + "]" * 2000, "nested more than 100 levels deep"),
        ('{"m":' + "[" * 100_000, "nested more than 100 levels deep"),
        ('{"a":' * 100_000, "nested more than 100 levels deep"),
        ("", "Expecting value"),
        ("{'a': 1}", "Expecting property name"),
        ('{"a": 1} x', "Extra data"),
        ('"a\nb"', "Invalid control character"),
    ],
)
def test_what_is_not_json_or_too_large_is_a_value_error(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


@given(ANY_TEXT | st.text(alphabet='[]{}":,0123456789.eE+-\\udD8NaInfity \n'))
def test_no_text_raises_anything_but_a_value_error(text: str) -> None:
    try:
        value = parse_json(text)
    except ValueError:
        return
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
                    | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_ordinary_json_is_read_as_the_standard_library_reads_it(value: Any) -> None:
    text = json.dumps(value)
    if "\\u0000" not in text:
        assert parse_json(text) == json.loads(text)


@pytest.mark.parametrize("piece", ["[", "[1,", '{"a":', "9", '"\\ud83d",', "\\", '"', "\x00", "1e9"])
def test_a_megabyte_is_read_or_refused_in_bounded_time(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    began = time.process_time()
    with pytest.raises(ValueError):  # noqa: PT011 - what is wrong differs, and is not of interest here
        parse_json(text)
    assert time.process_time() - began < 1


def test_every_integer_that_is_read_fits_a_float() -> None:
    assert math.isfinite(float(parse_json("9" * MAX_DIGITS)))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\n\tlines, ünïcode 😀 👩\u200d🚀", "two\n\tlines, ünïcode 😀 👩\u200d🚀"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("over\rwritten", "over\\x0dwritten"),
        ("dos\r\n", "dos\r\n"),
        ("\x9b31m\x7f\x00", "\\x9b31m\\x7f\\x00"),
        ("\u200bkey\ufeff \u202egnp.exe", "\\u200bkey\\ufeff \\u202egnp.exe"),
        ("\ud83d", "\\ud83d"),
    ],
)
def test_what_would_act_on_a_terminal_is_spelled_out(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(ANY_TEXT)
def test_printable_text_can_be_written_and_stays_as_it_is(text: str) -> None:
    shown = printable(text)
    assert "\x1b" not in shown
    assert printable(shown) == shown
    shown.encode()
