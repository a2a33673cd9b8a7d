"""`choice`: the answer chooses the same letter, A to J, as the reference."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from meteor_agents.messages import Question, Verdict
from meteor_agents.verifiers.choice_reading import chosen_letter
from meteor_agents.verifiers.verdicts import Unread, both_read, correct, incorrect

UNREAD = Unread(
    "does not name one letter from A to J",
    "does not choose one letter from A to J",
    "End the answer with one letter, such as: The answer is (C).",
)


class ChoiceOptions(BaseModel):
    """`choice` has no options."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ChoiceVerifier:
    """Compares letters of a multiple choice. The article in `a dog` and the pronoun in `I think` do not count as letters."""

    name = "choice"

    def verify(self, question: Question, answer: str) -> Verdict:
        """Correct if the answer chooses one letter, and it is the reference's; undecided if the reference has none."""
        letters = chosen_letter(question.reference or ""), chosen_letter(answer)
        read = both_read(self.name, question, answer, *letters, UNREAD)
        if isinstance(read, Verdict):
            return read
        expected, given = read
        if given == expected:
            return correct(self.name)
        return incorrect(self.name, f"The answer {given} is not the right choice.")

    def view(self, question: Question, answer: str) -> str | None:
        """The letter that the answer chooses, in upper case; None where it chooses none, or several."""
        return chosen_letter(answer)

    def close(self) -> None:
        """Does nothing: there is nothing to give back."""
