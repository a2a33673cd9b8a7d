"""`numeric`: the last number in the answer is the last number in the reference."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from pydantic import BaseModel, ConfigDict, Field

from meteor_agents.messages import Question, Verdict
from meteor_agents.verifiers.verdicts import correct, incorrect, quoted, undecided, without_reference

NUMBER = re.compile(
    r"""
    (?<![\w.])                                      # not inside a word such as H2, nor after a decimal point
    (?: (?<![)\]]) (?P<sign>[-+]) \s? )?
    (?P<amount> \$ | € | £ )?
    (?: (?P<whole>\d+) \s+ (?=\d+\s?/\s?\d) )?      # the 1 of 1 1/2
    (?P<number>
        (?: \d{1,3} (?: [,_'\u00a0\u202f] \d{3} )+ (?!\d) | \d+ ) (?: \.\d+ )?
        | \.\d+
    )
    (?: [eE] (?P<exponent>[-+]?\d{1,3}) (?!\w) )?
    (?: \s?/\s? (?P<below>\d+) (?![\d/]) )?
    \s? (?P<percent>%)?
    """,
    re.VERBOSE | re.ASCII,
)
LONGEST = 300
"""Characters of the longest number that is read: no text can make its arithmetic slow."""


class NumericOptions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    tolerance: float = Field(default=1e-6, ge=0, lt=1, allow_inf_nan=False)
    """How far the answer may be from the reference, as a part of the reference."""


class NumericVerifier:
    """Compares numbers: `1,234.50`, `-3`, `3/4`, `1 1/2`, `2e-3` and `75%` (which equals both 75 and 0.75)."""

    name = "numeric"

    def __init__(self, options: NumericOptions | None = None) -> None:
        self.tolerance = Fraction((options or NumericOptions()).tolerance)

    def verify(self, question: Question, answer: str) -> Verdict:
        if question.reference is None:
            return without_reference(self.name, question)
        expected = last_number(question.reference)
        if expected is None:
            return undecided(self.name, f"The reference of question {question.id} holds no number.")
        given = last_number(answer)
        if given is None:
            return incorrect(self.name, f"No number in the answer {quoted(answer)}.", "End the answer with the number.")
        if any(self.close_enough(a, b) for a, b in readings(given, expected)):
            return correct(self.name)
        return incorrect(self.name, f"The last number in the answer, {given.text}, is not the expected one.")

    def view(self, question: Question, answer: str) -> str | None:
        """The last number, a fraction to nine digits, with its percent sign if it has one."""
        number = last_number(answer)
        if number is None:
            return None
        whole = number.value.denominator == 1 or abs(number.value) >= 10**9
        rounded = str(int(number.value)) if whole else f"{float(number.value):.9g}"
        return rounded + "%" * number.percent

    def close_enough(self, given: Fraction, expected: Fraction) -> bool:
        return abs(given - expected) <= self.tolerance * abs(expected)

    def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Number:
    text: str
    value: Fraction
    """Without the percent sign: 75 for `75%`."""
    percent: bool


def last_number(text: str) -> Number | None:
    """The last number that a text holds."""
    plain = text.replace("−", "-")  # the minus sign of typeset text
    matches = [match for match in NUMBER.finditer(plain) if len(match[0]) <= LONGEST]
    return read_number(matches[-1]) if matches else None


def read_number(match: re.Match[str]) -> Number:
    value = Fraction(re.sub(r"[,_'\u00a0\u202f]", "", match["number"]))
    value *= Fraction(10) ** int(match["exponent"] or 0)
    below = int(match["below"] or 1)
    value = value / below if below else value
    value += int(match["whole"] or 0)
    return Number(match[0].strip(), -value if match["sign"] == "-" else value, match["percent"] is not None)


def readings(given: Number, expected: Number) -> list[tuple[Fraction, Fraction]]:
    """The pairs to compare. Where only one of the two has a percent sign, it may be meant either way."""
    if given.percent == expected.percent:
        return [(given.value, expected.value)]
    if given.percent:
        return [(given.value, expected.value), (given.value / 100, expected.value)]
    return [(given.value, expected.value), (given.value, expected.value / 100)]
