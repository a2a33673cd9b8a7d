"""`numeric`: the value of the answer is the value of the reference."""

from __future__ import annotations

from fractions import Fraction

from pydantic import BaseModel, ConfigDict, Field

from meteor_agents.messages import Question, Verdict
from meteor_agents.verifiers.numeric.answers import Notation, answer_value
from meteor_agents.verifiers.numeric.dates import When
from meteor_agents.verifiers.numeric.values import NOISE, Scalar, Value, same, view
from meteor_agents.verifiers.verdicts import Unread, both_read, correct, incorrect, quoted, undecided

UNREAD = Unread(
    "holds no value, or several",
    "does not give one value that can be read",
    "End the answer with the value alone, such as: Answer: 42",
)


class NumericOptions(BaseModel):
    """The options of `numeric`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tolerance: float = Field(default=1e-6, ge=0, lt=1, allow_inf_nan=False)
    """How far the answer may be from a reference that is no integer, as a part of the reference.

    Where it is not set, the decimals that the reference shows must agree, too.
    """


class NumericVerifier:
    """Compares one number, date, time, ratio, interval, tuple or set with another of its kind.

    Integers are compared exactly. What is read, and what is not, is listed in docs/verifiers.md.
    """

    name = "numeric"

    def __init__(self, options: NumericOptions | None = None) -> None:
        options = options or NumericOptions()
        self.tolerance = Fraction(str(options.tolerance))
        self.shown_decimals_agree = "tolerance" not in options.model_fields_set

    def verify(self, question: Question, answer: str) -> Verdict:
        """Correct if answer and reference have the same value; undecided if the reference has no value, or more than one."""
        notation = Notation.of(question.reference or "")
        values = notation.like, answer_value(answer, notation)
        read: tuple[Value, Value] | Verdict = both_read(self.name, question, answer, *values, UNREAD)
        if isinstance(read, Verdict):
            return read
        expected, given = read
        if same(expected, given, self.close_enough):
            return correct(self.name)
        if isinstance(expected, When) and isinstance(given, When) and expected.may_match(given):
            if expected.ambiguous:
                return undecided(self.name, f"The reference of question {question.id} may be two dates: write 2024-05-01.")
            return incorrect(self.name, "The date may be read in two ways.", "Write the date as year-month-day.")
        return incorrect(self.name, f"The value of the answer {quoted(answer)} is not the expected one.")

    def view(self, question: Question, answer: str) -> str | None:
        """The value of the answer in its kind's base unit; None where it gives no value, or several."""
        value = answer_value(answer, Notation.of(question.reference or ""))
        return None if value is None else view(value)

    def close_enough(self, expected: Scalar, given: Scalar) -> bool:
        """Whether a given number counts as the expected one, in whose unit it is."""
        gap = max(abs(expected.value - given.value), abs(expected.imag - given.imag))
        size = max(abs(expected.value), abs(expected.imag))
        noise = Fraction(0) if expected.exact and given.exact else NOISE * size
        if expected.is_integer:
            return gap <= noise
        shown = Fraction(1, 2 * 10**expected.places) if expected.places and self.shown_decimals_agree else gap
        return gap <= shown and gap <= max(self.tolerance * size, noise)

    def close(self) -> None:
        """Does nothing: there is nothing to give back."""
