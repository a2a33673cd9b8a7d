"""`exact`: the answer is the reference, apart from case, spacing and punctuation."""

from __future__ import annotations

import re
import unicodedata

from pydantic import BaseModel, ConfigDict

from meteor_agents.messages import Question, Verdict
from meteor_agents.verifiers.verdicts import correct, incorrect, quoted, without_reference


class ExactOptions(BaseModel):
    """`exact` has no options."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ExactVerifier:
    """Compares normalised texts. What carries meaning stays: `C#` is not `C`, `-5` not `5`, `3.5` not `35`."""

    name = "exact"

    def verify(self, question: Question, answer: str) -> Verdict:
        if question.reference is None:
            return without_reference(self.name, question)
        given, expected = normalised(answer), normalised(question.reference)
        if given == expected:
            return correct(self.name)
        if not given:
            return incorrect(self.name, "The answer is empty.")
        return incorrect(self.name, f"The answer {quoted(answer)} is not the expected one.")

    def view(self, question: Question, answer: str) -> str | None:
        return normalised(answer) or None

    def close(self) -> None:
        pass


def normalised(text: str) -> str:
    """Case-folded words with single spaces; a text of punctuation alone is kept as it is."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).replace("−", "-")
    words = "".join(char if carries_meaning(folded, at) else " " for at, char in enumerate(folded)).split()
    return " ".join(words) or folded.strip()


def carries_meaning(text: str, at: int) -> bool:
    """Whether a character counts: all but punctuation do, and of that what belongs to numbers and symbols."""
    char = text[at]
    if not unicodedata.category(char).startswith("P") or char in "#%&@*/\\":
        return char != "`"
    before, after = text[at - 1 : at] if at else "", text[at + 1 : at + 2]
    if char in ".,":
        return bool(re.fullmatch(r"\d\d", before + after))
    return char == "-" and after.isdigit() and not before.isalnum()
