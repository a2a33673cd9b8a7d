"""The verdicts that verifiers give, signed with the verifier's name."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from meteor_agents.messages import Question, Status, Verdict

Reading = TypeVar("Reading")


def correct(name: str) -> Verdict:
    """A verdict that the answer is right."""
    return Verdict(status=Status.CORRECT, model=f"verifier:{name}")


def incorrect(name: str, explanation: str, guide: str = "") -> Verdict:
    """A verdict that the answer is wrong, why, and a hint for the next try if there is one."""
    return Verdict(status=Status.INCORRECT, explanation=explanation, guide=guide, model=f"verifier:{name}")


def undecided(name: str, explanation: str) -> Verdict:
    """No verdict, and why: the answer may be right or wrong."""
    return Verdict(status=Status.ERROR, explanation=explanation, model=f"verifier:{name}")


def without_reference(name: str, question: Question) -> Verdict:
    """No verdict, since the question has no reference to compare with."""
    return undecided(
        name,
        f"Question {question.id} has no reference, which the verifier {name!r} compares with: add one to the data.",
    )


class Unread(NamedTuple):
    """What a verifier says of a text that it cannot read. Each of the first two goes on after the text's name."""

    reference: str
    """After `The reference of question q1`."""
    answer: str
    """After `The answer "..."`."""
    guide: str
    """A hint for the next try."""


def both_read(
    name: str, question: Question, answer: str, expected: Reading | None, given: Reading | None, told: Unread
) -> tuple[Reading, Reading] | Verdict:
    """What the reference and the answer were read as; the verdict, where there is no reference or one of them is None.

    An answer that cannot be read is incorrect; a question whose reference is missing or cannot be read stays undecided.
    """
    if question.reference is None:
        return without_reference(name, question)
    if expected is None:
        return undecided(name, f"The reference of question {question.id} {told.reference}.")
    if given is None:
        return incorrect(name, f"The answer {quoted(answer)} {told.answer}.", told.guide)
    return expected, given


def quoted(text: str, limit: int = 60) -> str:
    """The text in quotes on one line, cut at `limit` characters."""
    line = " ".join(text.split())
    return f'"{line if len(line) <= limit else line[: limit - 1] + "…"}"'
