"""What `exact` finds: the table of docs/verifiers.md row by row, and what holds for any text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meteor_agents.messages import Question, Status
from meteor_agents.verifiers.exact import ExactVerifier
from tests.verifiers.conformance_table import Row, table

EXACT = ExactVerifier()
STATEMENTS = st.lists(
    st.sampled_from(["Paris", "London", " ", "\n", ". ", "It is the capital.", "**", "`", "\\boxed{", "}", "The answer is ",
                     " or ", "not ", "wait, ", "because ", "\u200b", "-", "5", ".", "#", "$", "_"]),
    max_size=8,
).map("".join)  # fmt: skip


def asked(reference: str) -> Question:
    return Question(id="q1", question="?", reference=reference)


@pytest.mark.parametrize("row", table("exact"), ids=lambda row: f"{row.reference!r} {row.reply!r}")
def test_exact_keeps_to_its_table(row: Row) -> None:
    assert EXACT.verify(asked(row.reference), row.reply).status is row.status


def test_the_table_is_long_enough_to_say_something() -> None:
    assert len(table("exact")) >= 25


@pytest.mark.parametrize(
    ("answer", "reference"),
    [("  the  Blue Whale. ", "The blue whale"), ("“Oslo”", "oslo"), ("`x`", "X"), ("STRASSE", "straße"), ("?", "?")],
)
def test_exact_ignores_case_spacing_and_punctuation(answer: str, reference: str) -> None:
    assert EXACT.verify(asked(reference), answer).status is Status.CORRECT


@pytest.mark.parametrize(
    ("answer", "reference"), [("", "x"), ("-5", "5"), ("3.5", "35"), ("C", "C#"), ("50", "50%"), ("the cat", "a cat")]
)
def test_exact_keeps_what_carries_meaning(answer: str, reference: str) -> None:
    assert EXACT.verify(asked(reference), answer).status is Status.INCORRECT


@given(st.one_of(st.text(min_size=1), STATEMENTS).filter(lambda text: bool(text.strip())))
def test_every_text_is_exactly_itself(text: str) -> None:
    assert EXACT.verify(asked(text), f"  {text}\n").status is Status.CORRECT


@given(STATEMENTS, STATEMENTS, STATEMENTS)
def test_answers_with_equal_views_get_equal_verdicts(reference: str, one: str, other: str) -> None:
    question = asked(reference)
    if EXACT.view(question, one) == EXACT.view(question, other):
        assert EXACT.verify(question, one).status is EXACT.verify(question, other).status


@pytest.mark.parametrize(
    "unit",
    ["a", "_", "*", "`", "5", "(", "{", "\u0301", "$", " ", "\n", "\\boxed{", "\\text{", "**a", "wait,", "answer ", "答",
     "ﷺ", "İ", "½ ", "e\u0301", "٣", "ﬃ", "“", "{}", "# a\n", "~~a", "\\", "\u200b", "a\u200b", "\ud83d"],
)  # fmt: skip
def test_a_million_characters_are_read_in_bounded_time(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    for reference, answer in (("x", text), (text, "x")):
        started = time.process_time()
        EXACT.verify(asked(reference), answer)
        assert time.process_time() - started < 1


@pytest.mark.parametrize("padding", ["\u200b", " ", "\n", "\u2060\ufeff\u3000"])
def test_a_million_characters_that_nobody_sees_do_not_hide_the_answer(padding: str) -> None:
    padded = padding * (1_000_000 // len(padding)) + "**Paris**" + padding * 9
    assert EXACT.verify(asked("Paris"), padded).status is Status.CORRECT


def test_a_text_too_long_to_interpret_is_compared_as_it_is_written() -> None:
    text = "A blue whale! " * 10_000
    assert EXACT.verify(asked(text), text.upper().replace(" ", "\n")).status is Status.CORRECT
    assert EXACT.verify(asked(text), text.replace("!", "")).status is Status.INCORRECT
