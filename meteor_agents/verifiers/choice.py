"""`choice`: the answer names the same letter, A to J, as the reference."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict

from meteor_agents.messages import Question, Verdict
from meteor_agents.verifiers.verdicts import correct, incorrect, quoted, undecided, without_reference

MARKS = r"[\s*_`'\"$]*"
SHAPES = (
    # the whole answer: B   (b)   **B.**   b)
    re.compile(rf"\A{MARKS}[(\[]?{MARKS}([A-Ja-j]){MARKS}[)\].:]*{MARKS}\Z"),
    # said to be the answer: The answer is B   Answer: (c)   Option D
    re.compile(rf"(?i:answer|option|choice){MARKS}(?i:is|:|=)?{MARKS}:?{MARKS}[(\[]([A-Ja-j])[)\]]"),
    re.compile(rf"(?i:answer|option|choice){MARKS}(?i:is|:|=)?{MARKS}:?{MARKS}([A-J])(?!\w|['’]\w| [a-z])"),
    re.compile(rf"(?i:answer|option|choice){MARKS}(?i:is|:|=){MARKS}:?{MARKS}([a-j])(?=[.)]?{MARKS}\Z)"),
    re.compile(r"\\boxed\{(?:\\text\{)?\s*\(?([A-Ja-j])\)?\s*\}"),
    # at the start of a line, before its text: B. Paris   C) 12   D: none
    re.compile(rf"^{MARKS}([A-J]){MARKS}[.):](?!\w)", re.MULTILINE),
    # in brackets anywhere: so it must be (B)
    re.compile(r"(?<!\w)[(\[]([A-J])[)\]]"),
    # alone anywhere, unless it may be the article or the pronoun: I choose B because
    re.compile(r"(?<![\w'’])([B-HJ]|A(?= ?[.,;:]|\s*\Z))(?![\w'’])"),
)
"""From the clearest to the least clear way of naming a letter. Of the clearest that occurs, the last mention counts."""


class ChoiceOptions(BaseModel):
    """`choice` has no options."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ChoiceVerifier:
    """Compares letters of a multiple choice. The article in `a dog` and the pronoun in `I think` are no letters."""

    name = "choice"

    def verify(self, question: Question, answer: str) -> Verdict:
        if question.reference is None:
            return without_reference(self.name, question)
        expected = chosen_letter(question.reference)
        if expected is None:
            return undecided(self.name, f"The reference of question {question.id} names no letter from A to J.")
        given = chosen_letter(answer)
        if given is None:
            return incorrect(
                self.name,
                f"The answer {quoted(answer)} names no letter from A to J.",
                "End the answer with one letter, such as: The answer is (C).",
            )
        if given == expected:
            return correct(self.name)
        return incorrect(self.name, f"The answer {given} is not the right choice.")

    def view(self, question: Question, answer: str) -> str | None:
        return chosen_letter(answer)

    def close(self) -> None:
        pass


def chosen_letter(text: str) -> str | None:
    """The letter that a text chooses, in upper case."""
    for shape in SHAPES:
        letters: list[str] = shape.findall(text)
        if letters:
            return letters[-1].upper()
    return None
