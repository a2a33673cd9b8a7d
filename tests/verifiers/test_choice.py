"""What `choice` finds: the table of docs/verifiers.md row by row, and what holds for any text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meteor_agents.messages import Question, Status
from meteor_agents.verifiers.choice import ChoiceVerifier
from meteor_agents.verifiers.choice_reading import chosen_letter
from tests.verifiers.conformance_table import Row, table

CHOICE = ChoiceVerifier()
STATEMENTS = st.lists(
    st.sampled_from(
        ["A", "B", "(C)", "b", "I ", " or ", " and ", ", ", "not ", "The answer is ", "\n", ". ", "**", "答案是", "option ",
         " is correct", " is wrong", "Wait, ", "\\boxed{", "}", "(", ")", "A. Paris", "B) 12", "/", "Ｄ", "because "]
    ),
    max_size=10,
).map("".join)  # fmt: skip


def asked(reference: str) -> Question:
    return Question(id="q1", question="?", reference=reference)


@pytest.mark.parametrize("row", table("choice"), ids=lambda row: f"{row.reference!r} {row.reply!r}")
def test_choice_keeps_to_its_table(row: Row) -> None:
    assert CHOICE.verify(asked(row.reference), row.reply).status is row.status


def test_the_table_is_long_enough_to_say_something() -> None:
    assert len(table("choice")) >= 25


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("A, B, C, D", None),
        ("either (A) or (B)", None),
        ("Not B. It is hard to say.", None),
        ("all but B", None),
        ("Anything but (B)", None),
        ("every option other than B", None),
        ("excluding B", None),
        ("nothing but B", "B"),
        ("The answer is A because...", "A"),
        ('B\n\nOption A is wrong since (A) says so.', 'B'),
        ("答案是B", "B"),
        ("B or C", None),
        ("I would pick B, not A", "B"),
        ("A and B", None),
        ("None of the above", None),
        ("A... wait, actually B", "B"),
        ("Ｂ", "B"),
        ("(b)", "B"),
        ("Option b", "B"),
        ("It's B.", 'B'),
        ("B: because it is", "B"),
        ("the correct one is **B**", "B"),
        ("B) Paris", "B"),
        ("A dog", None),
        ("The answer is B or C.", None),
        ("The answer is not B.", None),
        ("The answer is not A but B.", "B"),
        ("Die richtige Antwort ist B.", "B"),
        ("Die Antwort lautet (C).", "C"),
        ("La réponse est B.", "B"),
        ("La bonne réponse est la B", "B"),
        ("Réponse : D", "D"),
        ("La respuesta correcta es C.", "C"),
        ("Respuesta: (b)", "B"),
        ("正确答案是 C。", "C"),
        ("答案：D", "D"),
        ("答えはBです。", "B"),
        ("正解はCです", "C"),
        ("Правильный ответ — B.", "B"),
        ("Ответ: B", "B"),
        ("Правильный ответ: C", "C"),
        ("选B", "B"),
        ("应该选择 C", "C"),
        ("A is wrong, so B", "B"),
        ("B is correct.", "B"),
        ("(B) is the correct answer.", "B"),
        ("Neither A nor B", None),
        ("Vitamin C", None),
        ("I think so", None),
        ("I", "I"),
        ("The answer is I.", "I"),
        ("I choose J", "J"),
        ('A. Paris\nB. London\nC. Rome', None),
        ('A. Paris\nB. London\n\nThe answer is B', 'B'),
        ("Not (A) but (B)", "B"),
        ('First A. seemed right\nbut the answer is E because', 'E'),
        ("B and not A", "B"),
        ("B instead of A", "B"),
        ("B, since A and C are false", "B"),
        ("(B), because (A) contradicts the text", "B"),
        ("I'm torn between A and B", None),
        ("It could be A or B, but B is right", "B"),
        ("a, b", None),
        ("B/C", None),
        ("A B", None),
        ("AB", None),
        ("B. Paris", "B"),
        ('\\boxed{\\text{(B)}}', 'B'),
        ('\\boxed{B) Paris}', 'B'),
        ('\\boxed{A, B}', None),
        ('$\\boxed{D}$', 'D'),
        ("Answer: B. Not A.", "B"),
        ('Answer:\nB', 'B'),
        ("**Answer:** B", "B"),
        ("**B.** Paris", "B"),
        ("Answer: A or B? I'd say B", None),
        ("The answer is (d), a small one.", "D"),
        ("the answer is c.", "C"),
        ("The answer is a dog", None),
        ("a dog", None),
        ("Banana", None),
        ("K", None),
        ("", None),
        ("The answer is A dog", None),
        ("The answer is A.", "A"),
        ("My answer is definitely B!", "B"),
        ("Ich wähle B", "B"),
        ("Je choisis la réponse B", "B"),
        ("Elijo la opción B", "B"),
        ("Я выбираю B", "B"),
        ("The answer is A. Wait, no, it's C.", 'C'),
        ("The wrong answer is A.", None),
        ("I don't think the answer is A.", None),
        ("I don't think it's A. I think it's B.", 'B'),
        ("不是A,是B", "B"),
        ("A不对，B正确", "B"),
        ("Both A and B", None),
        ("All of the above", None),
        ("D. All of the above", "D"),
        ("The answer is D) none of the above", "D"),
        ("b)", "B"),
        ("b) Paris", "B"),
        ("The correct option is B, which says Paris.", "B"),
        ("B > A", None),
        ("B.", "B"),
        ("B!", "B"),
        ("So the final answer is: **(C)**", "C"),
        ("Choice (E)", "E"),
        ("#### B", "B"),
        ("ANSWER: B", "B"),
        ("answer: b", "B"),
        ("The answer is B and C.", None),
        ("The answer is both A and C", None),
        ("(A)(B)", None),
        ("ⓑ", "B"),
        ('B.\nC.', None),
        ("[B]", "B"),
        ("<B>", "B"),
        ("The answer is B. The answer is C.", "C"),
        ("The best answer is B: Paris", "B"),
        ("<answer>B</answer>", "B"),
        ("Answer B", "B"),
        ("Option A is incorrect. Option B is correct.", "B"),
        ("It is not A, B or C.", None),
        ("A is not B", "A"),
        ("Grade: A", "A"),
        ("Hence, (A).", "A"),
        ("~~A~~ B", "B"),
        ("a", "A"),
        ("The answer is “B”.", "B"),
        ("Answer = B", "B"),
        ("Antwort B ist richtig, weil A falsch ist.", "B"),
    ],
)
def test_choice_finds_the_letter_that_is_meant(answer: str, letter: str | None) -> None:
    assert chosen_letter(answer) == letter


@given(
    st.sampled_from("ABCDEFGHIJ"),
    st.sampled_from(["{}", "({})", "{}.", "The answer is {}.", "Answer: ({})", "{}) one", "\\boxed{{{}}}", "答案是{}"]),
)
def test_choice_finds_every_letter_in_every_shape(letter: str, shape: str) -> None:
    assert chosen_letter(shape.format(letter)) == letter


@given(
    st.sampled_from("BCDEFGH"),
    st.sampled_from("BCDEFGH"),
    st.sampled_from(["{} or {}", "{}, {}", "({}) and ({})", "{}/{}"]),
)
def test_two_letters_are_no_choice(one: str, other: str, shape: str) -> None:
    text = shape.format(one, other)
    for said in (text, f"The answer is {text}.", f"\\boxed{{{text}}}"):
        assert chosen_letter(said) is None or one == other


def test_choice_without_a_letter_is_told_how_to_answer() -> None:
    verdict = CHOICE.verify(asked("B"), "a dog")
    assert verdict.status is Status.INCORRECT
    assert "one letter" in verdict.guide
    assert CHOICE.verify(asked("nothing"), "B").status is Status.ERROR


@given(st.one_of(st.text(), STATEMENTS))
def test_any_text_gets_a_verdict_and_a_readable_reference_is_its_own_answer(text: str) -> None:
    assert CHOICE.verify(asked("A"), text).status is not Status.ERROR
    letter = CHOICE.view(asked("A"), text)
    expected = Status.ERROR if letter is None else Status.CORRECT
    assert CHOICE.verify(asked(text), text).status is expected


@pytest.mark.parametrize(
    "unit",
    [
        *("a", "_", "*", "B ", "B, ", "(B", "(", "\u0301", " ", "\n", "B) ", "wait, "),
        *("the answer is ", "答案是", "A\n", "B/", "B or "),
    ],
)
@pytest.mark.parametrize("length", [19_900, 1_000_000])
def test_a_long_text_is_read_in_bounded_time(unit: str, length: int) -> None:
    started = time.process_time()
    chosen_letter("My answer " + (unit * (length // len(unit) + 1))[:length] + " x")
    assert time.process_time() - started < 1
