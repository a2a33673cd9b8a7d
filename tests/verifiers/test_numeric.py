"""What `numeric` finds: the table of docs/verifiers.md row by row, and what holds for any text."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meteor_agents.messages import Question, Status
from meteor_agents.verifiers.numeric import NumericOptions, NumericVerifier
from tests.verifiers.conformance_table import Row, table

NUMERIC = NumericVerifier()
STATEMENTS = st.lists(
    st.sampled_from(
        ["1.234", "1,234", "5", "-5", "3/4", "75%", " ", "\n", "The answer is ", " or ", " not ", "(", ")", "[", ",", ", ",
         "12 cm", " kg", "$", "x = ", "=", "≈", "√", "^", "\\frac{1}{2}", "\\boxed{", "}", "**", "10:30", "2024-05-01",
         " to ", "-", "i", "π", "∞", "0.(3)", "...", "e5", " million", "because ", "Wait, ", "is ", "<", "é", "٣", "²"]
    ),
    max_size=12,
).map("".join)  # fmt: skip


def asked(reference: str) -> Question:
    return Question(id="q1", question="?", reference=reference)


def found(reference: str, answer: str) -> Status:
    return NUMERIC.verify(asked(reference), answer).status


@pytest.mark.parametrize("row", table("numeric"), ids=lambda row: f"{row.reference!r} {row.reply!r}")
def test_numeric_keeps_to_its_table(row: Row) -> None:
    assert found(row.reference, row.reply) is row.status


def test_the_table_is_long_enough_to_say_something() -> None:
    assert len(table("numeric")) >= 40


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("It costs $1,234.50", "1234.5"),
        ("75%", "75"),
        ("0.75", "75 %"),
        ("−3", "-3"),
        ("1.2e3 metres", "1200"),
        ("about .5", "1/2"),
        ("**42**", "She has 40 + 2 #### 42"),
        ("It goes 60 km in 2 hours, which is 30 km/h.", "30 km/h"),
        ("The final answer is $\\boxed{42}$. I hope it is correct.", "42"),
        ("1. First add 3\n2. Then 4\nThe answer is 7", "7"),
        ("3 x 60 = 180. 180 + 28 = 208.", "208"),
        ("√3/2", "\\frac{\\sqrt{3}}{2}"),
        ("(-\\infty,1)\\cup(2,\\infty)", "(-∞, 1) ∪ (2, ∞)"),
        ("(1,234)", "1234"),
        ("1,2", "(1, 2)"),
        ("1,2", "1.2"),
        ("1/3 ≈ 0.333", "0.333"),
        ("1/3 ≈ 0.333", "1/3"),
        ("5 pounds", "£5"),
        ("50 cents", "$0.50"),
        ("5 ft 11 in", "71 in"),
        ("May 1, 2024 10:30 UTC", "2024-05-01T10:30:00Z"),
        ("−40 degrees Celsius", "-40 °C"),
        ("18 km/h", "5 m/s"),
        ("1 000,00", "1000"),
        ("> 42\nis what they say", "42"),
    ],
)
def test_numeric_reads_values_as_people_write_them(answer: str, reference: str) -> None:
    assert found(reference, answer) is Status.CORRECT


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("1.01", "1"),
        ("none", "0"),
        ("0", "1"),
        ("1/0", "2"),
        ("from 10-5", "5"),
        ("10:30 EST", "10:30 UTC"),
        ("Answer: 42\nAnswer: 43", "42"),
        ("42 is wrong", "42"),
        ("The answer is 15 minutes and 3 seconds", "15"),
        ("7 ≈ 8", "7"),
        ("3x", "3"),
        ("5 MB", "5 GB"),
        ("5 pounds", "5 kg"),
        (">= 3", "3"),
        ("|5|", "5"),
        ("(0,1]", "(0,1)"),
        ("\\boxed{42} or \\boxed{43}", "43"),
    ],
)
def test_numeric_accepts_no_other_value(answer: str, reference: str) -> None:
    assert found(reference, answer) is Status.INCORRECT


def test_tolerance_is_a_part_of_a_reference_that_is_no_integer() -> None:
    loose = NumericVerifier(NumericOptions(tolerance=0.01))
    assert loose.verify(asked("200.0"), "201.9").status is Status.CORRECT
    assert loose.verify(asked("200.0"), "202.1").status is Status.INCORRECT
    assert loose.verify(asked("200"), "200.1").status is Status.INCORRECT


@pytest.mark.parametrize("length", [300, 4_299, 4_301, 15_000])
def test_integers_of_any_length_are_compared_to_the_last_digit(length: int) -> None:
    number = "7" * length
    assert found(number, f"The answer is {number}.") is Status.CORRECT
    assert found(number, number[:-1] + "8") is Status.INCORRECT
    assert found("9", number) is Status.INCORRECT
    assert NUMERIC.view(asked(number), number) is not None


@pytest.mark.parametrize("reference", ["many", "", "7 or so many of 8", "x + 1", "2024-02-30", "1.2.3"])
def test_reference_without_one_value_gets_no_verdict(reference: str) -> None:
    assert found(reference, "7") is Status.ERROR


def test_no_message_shows_the_reference() -> None:
    for row in table("numeric"):
        verdict = NUMERIC.verify(asked(row.reference), "88888888888")
        assert len(row.reference) < 3 or row.reference not in verdict.explanation + verdict.guide


@given(st.integers(-(10**15), 10**15), st.integers(-(10**15), 10**15))
def test_only_the_same_integer_is_correct(a: int, b: int) -> None:
    assert (found(str(b), f"The result is {a:,}.") is Status.CORRECT) == (a == b)


@given(st.dates(date(1000, 1, 1)), st.dates(date(1000, 1, 1)))
def test_only_the_same_date_is_correct(a: date, b: date) -> None:
    assert (found(b.isoformat(), f"It was on {a.day} {a:%B} {a.year:04}.") is Status.CORRECT) == (a == b)


@given(st.fractions(-1000, 1000, max_denominator=1000))
def test_a_fraction_is_correct_in_every_notation(value: object) -> None:
    above, _, below = str(value).partition("/")
    latex = f"{'-' * above.startswith('-')}\\frac{{{above.lstrip('-')}}}{{{below or 1}}}"
    assert found(str(value), latex) is Status.CORRECT
    assert found(latex, f"**{value}**") is Status.CORRECT


@given(st.one_of(st.text(), STATEMENTS))
def test_any_text_gets_a_verdict(text: str) -> None:
    assert found("1", text) is not Status.ERROR
    verdict = NUMERIC.verify(asked(text), "1")
    assert verdict.status in Status


@given(st.one_of(st.text(max_size=30), STATEMENTS))
def test_a_reference_that_can_be_read_is_its_own_answer(text: str) -> None:
    if NUMERIC.verify(asked(text), "no value").status is not Status.ERROR:
        assert found(text, text) is Status.CORRECT


@given(STATEMENTS, STATEMENTS, STATEMENTS)
def test_answers_with_equal_views_get_equal_verdicts(reference: str, one: str, other: str) -> None:
    question = asked(reference)
    seen = NUMERIC.view(question, one)
    if seen is not None and seen == NUMERIC.view(question, other):
        assert NUMERIC.verify(question, one).status is NUMERIC.verify(question, other).status
        assert found(one, one) in (Status.CORRECT, Status.ERROR)


UNITS = ("a", "_", "*", "~", "5", "5 ", "5,", "1,", "(", "[1,", "{", "\u0301", "$", " ", "\n", "\\boxed{", "\\frac{", "√",
         "5^", "5/", "5-", "-", "=", "x=5,", "**5", "wait, 5 ", "the answer is 5 ", "5\n", "1. 5\n", "5 or ", "5 kg ", "m*",
         "#### ", "5 h 3 ", "9" * 300 + "*10^", "(1,2)∪", "5²", "\\text{", "$5$", "≈", "5<x<", "5e5")  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("length", [19_900, 1_000_000])
def test_a_long_text_is_read_in_bounded_time(unit: str, length: int) -> None:
    text = "The answer is\n" + (unit * (length // len(unit) + 1))[:length]
    started = time.process_time()
    found("5", text)
    assert time.process_time() - started < 1


def test_threads_read_at_once() -> None:
    rows = table("numeric") * 3
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda row: found(row.reference, row.reply), rows)) == [row.status for row in rows]
