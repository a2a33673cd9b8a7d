"""Reading a number with what belongs to it: its currency, percent sign or unit, and `million`."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from meteor_agents.verifiers.numeric.expression import MINUS, Expressions
from meteor_agents.verifiers.numeric.units import CURRENCY_SIGN, Unit, known_units, read_unit
from meteor_agents.verifiers.numeric.values import Scalar
from meteor_agents.verifiers.wording import AND

MULTIPLIERS = {
    "hundred": 2, "thousand": 3, "tausend": 3, "mille": 3, "mil": 3, "тысяч": 3, "千": 3, "万": 4, "萬": 4,
    "lakh": 5, "lakhs": 5, "million": 6, "millions": 6, "millionen": 6, "mio": 6, "mln": 6, "millones": 6, "миллионов": 6,
    "crore": 7, "crores": 7, "亿": 8, "億": 8, "billion": 9, "billions": 9, "bn": 9, "milliarde": 9, "milliarden": 9,
    "mrd": 9, "milliards": 9, "миллиардов": 9, "trillion": 12, "trillions": 12,
}  # fmt: skip
MULTIPLIER = re.compile(rf" ?-?({'|'.join(sorted(MULTIPLIERS, key=len, reverse=True))})(?![^\W\d_])\.?", re.IGNORECASE)
SHORT_MULTIPLIERS = {"k": 3, "M": 6, "B": 9, "T": 12}
DOZEN = re.compile(r" dozens?\b")
ORDINAL = re.compile(r"(?:st|nd|rd|th|ème|º|ª)\b")
PERCENT = re.compile(
    r" ?(?:%|per ?cent\b|percent(?:age points?)?\b|pct\b|Prozent\b|pour ?cent\b|por ciento\b|процент\w{0,3}\b)"
)


@dataclass(frozen=True, slots=True)
class Amounts:
    """Reads amounts of one text in one notation."""

    text: str
    comma: bool = False
    """Whether a lone comma before three digits is a decimal comma."""
    lists: bool = False
    """Whether a comma always separates values."""

    def quantity(self, at: int) -> tuple[Scalar, int] | None:
        """A number with what belongs to it: currency, percent sign, unit, `million`, and smaller units after it."""
        found = self.measured(at)
        while found and found[0].unit and not found[0].infinite:
            step = re.compile(rf" ?(?:, ?)?(?:{AND} )?(?=\d)", re.IGNORECASE).match(self.text, found[1])
            more = self.measured(step.end()) if step else None
            large, small = found[0].unit, more[0].unit if more else None
            if not more or not small or large.dimension != small.dimension or small.factor >= large.factor:
                break
            value = found[0].value + more[0].value * small.factor / large.factor
            smallest = Unit(small.dimension, small.factor, compound=True)
            found = Scalar(value * large.factor / small.factor, unit=smallest), more[1]
        return found

    def measured(self, at: int) -> tuple[Scalar, int] | None:
        """A number with one currency, percent sign or unit."""
        sign, start = 1, at
        if (minus := MINUS.match(self.text, at)) and CURRENCY_SIGN.match(self.text, minus.end()):
            sign, start = -1, minus.end()
        money = CURRENCY_SIGN.match(self.text, start)
        found = Expressions(self.text, self.comma, self.lists).total(money.end() if money else at)
        if not found:
            return None
        number, end = found
        scalar = Scalar(number.value * sign, number.imag * sign, None, number.places, number.exact, number.infinite)
        if (ordinal := ORDINAL.match(self.text, end)) and self.text[end - 1].isdigit():
            return scalar, ordinal.end()
        if self.text.startswith("±", end + (self.text[end : end + 1] == " ")):
            return None
        scalar, end = self.multiplied(scalar, end, money is not None)
        if money:
            entry = known_units()[money[0].strip().replace("US $", "US$").rstrip(".")]
            return replace(scalar, unit=Unit(entry.powers[0][0], entry.factor)), end
        if percent := PERCENT.match(self.text, end):
            return replace(scalar, unit=Unit("%")), percent.end()
        gap = end + (self.text[end : end + 1] == " ")
        unit = read_unit(self.text, gap)
        if unit and not re.match(r"\w", self.text[unit[1] : unit[1] + 1]):
            return replace(scalar, unit=unit[0]), unit[1]
        return scalar, end

    def multiplied(self, scalar: Scalar, end: int, is_money: bool) -> tuple[Scalar, int]:
        """The number times the `million`, `k` or `dozen` after it."""
        power, match = 0, MULTIPLIER.match(self.text, end)
        if match:
            power = MULTIPLIERS[match[1].lower()]
        elif dozen := DOZEN.match(self.text, end):
            return replace(scalar, value=scalar.value * 12, places=None), dozen.end()
        elif short := re.compile(r"[kM](?![\w/^])" if not is_money else r" ?[kMBT](?![\w/^])").match(self.text, end):
            power, match = SHORT_MULTIPLIERS[short[0].strip()], short
        if not match:
            return scalar, end
        places = max(scalar.places - power, 0) or None if scalar.places else None
        return replace(scalar, value=scalar.value * 10**power, places=places), match.end()
