"""`math`: what it finds, by the table in docs/verifiers.md, and what no formula can do to it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meteor_agents.errors import SettingsError
from meteor_agents.messages import Question, Status
from meteor_agents.verifiers import Verifier, open_verifier
from meteor_agents.verifiers.mathematics import formula
from tests.verifiers.conformance_table import Row, table

pytest.importorskip("math_verify", reason="needs the extra [math]")


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with closing(open_verifier("math", {"timeout_s": 20}, Path())) as opened:
        yield opened


def asked(reference: str | None) -> Question:
    return Question(id="q1", question="?", reference=reference)


@pytest.mark.parametrize("row", table("math"), ids=lambda row: f"{row.reference} | {row.reply}")
def test_the_conformance_table_holds(row: Row, verifier: Verifier) -> None:
    assert verifier.verify(asked(row.reference), row.reply).status is row.status


def test_a_comparison_without_end_is_ended_and_the_next_one_works() -> None:
    with closing(open_verifier("math", {"timeout_s": 2, "workers": 1}, Path())) as opened:
        began = time.monotonic()
        found = opened.verify(asked("x"), "$10^{10^{10}}!$")
        assert found.status is Status.INCORRECT
        assert time.monotonic() - began < 20
        assert opened.verify(asked("x+1"), "1+x").status is Status.CORRECT


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(SettingsError, match="timeout is unknown"):
        open_verifier("math", {"timeout": 2}, Path())


@given(st.text())
@settings(max_examples=200)
def test_no_text_ends_the_reading_of_a_formula(text: str) -> None:
    found = formula(text)
    assert found is None or found.strip() == found


def test_the_spacing_of_rows_opens_no_formula() -> None:
    assert formula(r"\[\begin{matrix}1\\[2pt] 2\end{matrix}\]") == r"\begin{matrix}1\\[2pt] 2\end{matrix}"


@pytest.mark.parametrize(
    "unit", ["$", "\\(", "\\boxed{", "x$y$", "a", "$ ", "*", "\n", "or ", "\\[x", "\\(\n", "\\\\[", "B \\[5. "]
)
@pytest.mark.parametrize("length", [19_900, 1_000_000])
def test_a_megabyte_is_read_in_bounded_time(unit: str, length: int) -> None:
    began = time.process_time()
    formula(unit * (length // len(unit)) + "x")
    assert time.process_time() - began < 1
