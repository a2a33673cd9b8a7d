"""What each verifier finds, and what no answer can do to it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meteor_agents.errors import SettingsError
from meteor_agents.messages import Question, Status
from meteor_agents.verifiers import open_verifier
from meteor_agents.verifiers.choice import chosen_letter
from meteor_agents.verifiers.exact import ExactVerifier
from meteor_agents.verifiers.numeric import NumericOptions, NumericVerifier


def asked(reference: str | None) -> Question:
    return Question(id="q1", question="?", reference=reference)


# --- opening


@pytest.mark.parametrize(("name", "nearest"), [("numric", "numeric"), ("SQL", ""), ("exakt", "exact")])
def test_unknown_name_is_refused_with_the_known_and_the_nearest(name: str, nearest: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="exact, numeric, choice, sql") as caught:
        open_verifier(name, {}, tmp_path)
    assert f"Did you mean {nearest!r}?" in str(caught.value) or not nearest


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("exact", {"tolerance": 1}),
        ("numeric", {"tolerence": 0.1}),
        ("numeric", {"tolerance": -1}),
        ("choice", {"letters": "AB"}),
        ("sql", {}),
        ("sql", {"database": "x.sql", "max_rows": 0}),
        ("os.path:exists", {"option": 1}),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="It takes: "):
        open_verifier(name, options, tmp_path)


@pytest.mark.parametrize("name", ["exact", "numeric", "choice"])
def test_question_without_reference_gets_no_verdict(name: str, tmp_path: Path) -> None:
    with closing(open_verifier(name, {}, tmp_path)) as verifier:
        verdict = verifier.verify(asked(None), "B 2")
    assert verdict.status is Status.ERROR
    assert "no reference" in verdict.explanation
    assert verdict.model == f"verifier:{name}"


# --- exact


@pytest.mark.parametrize(
    ("answer", "reference"),
    [("  the  Blue Whale. ", "The blue whale"), ("“Oslo”", "oslo"), ("`x`", "X"), ("STRASSE", "straße"), ("?", "?")],
)
def test_exact_ignores_case_spacing_and_punctuation(answer: str, reference: str) -> None:
    assert ExactVerifier().verify(asked(reference), answer).status is Status.CORRECT


@pytest.mark.parametrize(
    ("answer", "reference"), [("", "x"), ("-5", "5"), ("3.5", "35"), ("C", "C#"), ("50", "50%"), ("the cat", "a cat")]
)
def test_exact_keeps_what_carries_meaning(answer: str, reference: str) -> None:
    assert ExactVerifier().verify(asked(reference), answer).status is Status.INCORRECT


@given(st.text(min_size=1).filter(lambda text: bool(text.strip())))
def test_every_text_is_exactly_itself(text: str) -> None:
    assert ExactVerifier().verify(asked(text), f"  {text}\n").status is Status.CORRECT


# --- numeric


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("So 3 + 4 = 7.", "7"),
        ("It costs $1,234.50", "1234.5"),
        ("3/4", "0.75"),
        ("1 1/2 cups", "1.5"),
        ("75%", "0.75"),
        ("75%", "75"),
        ("0.75", "75 %"),
        ("−3", "-3"),
        ("1.2e3 metres", "1200"),
        ("about .5", "1/2"),
        ("**42**", "She has 40 + 2 #### 42"),
        ("from 10-5", "5"),
        ("0.333333333", "1/3"),
    ],
)
def test_numeric_reads_numbers_as_people_write_them(answer: str, reference: str) -> None:
    assert NumericVerifier().verify(asked(reference), answer).status is Status.CORRECT


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("7 or 8", "7"),
        ("-7", "7"),
        ("1.01", "1"),
        ("none", "0"),
        ("H2", "2"),
        ("0", "1"),
        ("9" * 5000, "9"),
        ("1/0", "2"),
    ],
)
def test_numeric_finds_other_numbers_incorrect(answer: str, reference: str) -> None:
    assert NumericVerifier().verify(asked(reference), answer).status is Status.INCORRECT


def test_numeric_tolerance_is_a_part_of_the_reference() -> None:
    loose = NumericVerifier(NumericOptions(tolerance=0.01))
    assert loose.verify(asked("200"), "201.9").status is Status.CORRECT
    assert loose.verify(asked("200"), "202.1").status is Status.INCORRECT


def test_reference_without_a_number_gets_no_verdict() -> None:
    assert NumericVerifier().verify(asked("many"), "7").status is Status.ERROR


@given(st.integers(-(10**15), 10**15), st.integers(-(10**15), 10**15))
def test_without_tolerance_only_the_same_integer_is_correct(a: int, b: int) -> None:
    verdict = NumericVerifier(NumericOptions(tolerance=0)).verify(asked(str(b)), f"The result is {a:,}.")
    assert (verdict.status is Status.CORRECT) == (a == b)


@given(st.text())
def test_numeric_gives_a_verdict_on_any_text(text: str) -> None:
    assert NumericVerifier().verify(asked("1"), text).status is not Status.ERROR


# --- choice


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("**C.**", "C"),
        ("B. Paris", "B"),
        ("The answer is B", "B"),
        ("The answer is (d), a small one.", "D"),
        ("Answer: **A**", "A"),
        ("the answer is c.", "C"),
        ("First A. seemed right\nbut the answer is E because", "E"),
        ("Not (A) but (B)", "B"),
        ("I choose J", "J"),
        (r"$\boxed{D}$", "D"),
        ("A dog is what I see", None),
        ("The answer is a dog", None),
        ("a dog", None),
        ("I think so", None),
        ("Banana", None),
        ("K", None),
        ("", None),
    ],
)
def test_choice_finds_the_letter_and_no_article(answer: str, letter: str | None) -> None:
    assert chosen_letter(answer) == letter


@given(
    st.sampled_from("ABCDEFGHIJ"),
    st.sampled_from(["{}", "({})", "{}.", "The answer is {}.", "Answer: ({})", "{}) one"]),
)
def test_choice_finds_every_letter_in_every_shape(letter: str, shape: str) -> None:
    assert chosen_letter(shape.format(letter)) == letter


def test_choice_without_a_letter_is_told_how_to_answer(tmp_path: Path) -> None:
    with closing(open_verifier("choice", {}, tmp_path)) as verifier:
        verdict = verifier.verify(asked("B"), "a dog")
        assert verdict.status is Status.INCORRECT
        assert "one letter" in verdict.guide
        assert verifier.verify(asked("nothing"), "B").status is Status.ERROR
