"""Reading one number: a numeral, fraction, power, root, multiple of π, or a complex number.

Sums and products of plain numbers are not read: `40 + 2` is a task, not an answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from math import isqrt

from meteor_agents.verifiers.numeric.numerals import NUMERAL, WITHOUT_COMMAS, integer, read_numeral

PI = Fraction("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899")
E = Fraction("2.71828182845904523536028747135266249775724709369995957496696762772407663035354759")
DEEPEST = 12
"""Brackets and roots inside each other that are read."""
LARGEST_POWER = 4_000
LARGEST_BITS = 70_000
"""The size of numbers that are multiplied or raised: 20,000 digits."""

MINUS = re.compile(r" ?(?:[-–]|(?:minus|negative|moins|menos|минус) |负|マイナス) ?", re.IGNORECASE)
MIXED = re.compile(r" (\d{1,9}) ?/ ?(\d{1,9})(?![\d/.,])")
REPEATING = re.compile(r"\.(\d*)\((\d{1,40})\)")
GOES_ON = re.compile(r" ?(?:\.\.\.|…)")
FACTOR_NEXT = re.compile(r" ?(?=π|√|\\sqrt|\\frac|i(?![A-Za-z])|e\^)")
TEN_POWER = re.compile(r" ?[*x] ?(?=10 ?\^)|(?=[eE][-+]?\d)")


@dataclass(frozen=True, slots=True)
class Number:
    """What an expression comes to."""

    value: Fraction
    imag: Fraction = Fraction(0)
    places: int | None = None
    exact: bool = True
    infinite: int = 0

    @property
    def is_rational(self) -> bool:
        """Whether it is a plain number, whose sums and products should have been worked out."""
        return self.exact and not self.imag and not self.infinite


Read = tuple[Number, int] | None


@dataclass(frozen=True, slots=True)
class Expressions:
    """Reads expressions of one text in one notation."""

    text: str
    comma: bool = False
    """Whether a lone comma before three digits is a decimal comma."""
    lists: bool = False
    """Whether a comma always separates values."""

    def total(self, at: int, depth: int = 0) -> Read:
        """A number or a sum that cannot be worked out further, such as `3+4i` and `1 - √2`; and where it ends."""
        sign, at = self.sign(at)
        found = self.product(at, depth)
        if not found:
            return None
        left, end = found
        left = scaled(left, sign)
        while step := re.compile(r" ?([-+]) ?(?![-+])").match(self.text, end):
            right = self.product(step.end(), depth)
            if not right or (left.is_rational and right[0].is_rational) or left.infinite or right[0].infinite:
                break
            more = scaled(right[0], -1 if step[1] == "-" else 1)
            left = Number(left.value + more.value, left.imag + more.imag, None, left.exact and more.exact)
            end = right[1]
        return left, end

    def sign(self, at: int) -> tuple[int, int]:
        """1 or -1 for the sign at this position, and where it ends. Without a sign: 1 and the same position."""
        if match := MINUS.match(self.text, at):
            return -1, match.end()
        plus = re.compile(r" ?\+ ?").match(self.text, at)
        return 1, plus.end() if plus else at

    def product(self, at: int, depth: int) -> Read:
        """A power, or a product or quotient that cannot be worked out further, such as `2π` and `√2/2`; and where it ends.

        A fraction of whole numbers counts as a quotient. None if there is no number, or for a division that cannot be done.
        """
        found = self.power(at, depth)
        while found:
            left, end = found
            if ten := TEN_POWER.match(self.text, end):
                found = self.scientific(left, ten.end())
                if not found:
                    return left, end
                continue
            sign = re.compile(r" ?([*/]) ?").match(self.text, end) or FACTOR_NEXT.match(self.text, end)
            right = self.power(sign.end(), depth) if sign else None
            if not sign or not right:
                break
            divided = sign[0].strip() == "/"
            worked_out = left.is_rational and right[0].is_rational and not divided
            combined = None if worked_out else (quotient if divided else multiplied)(left, right[0])
            if combined is None:
                return None if divided else found
            found = combined, right[1]
        return found

    def scientific(self, left: Number, at: int) -> Read:
        """What stands before `× 10^8` or `e8`, multiplied by it."""
        power = r"(?:10 ?\^ ?|[eE])(?:\{ ?([-+]?\d{1,5}) ?\}|\(([-+]?\d{1,5})\)|([-+]?\d{1,5}))"
        match = re.compile(power).match(self.text, at)
        exponent = int(match[1] or match[2] or match[3]) if match else LARGEST_POWER + 1
        if not match or abs(exponent) > LARGEST_POWER:
            return None
        ten = Fraction(10) ** exponent
        places = None if left.places is None else max(left.places - exponent, 0) or None
        return replace(left, value=left.value * ten, imag=left.imag * ten, places=places), match.end()

    def power(self, at: int, depth: int) -> Read:
        """A base with its whole exponent, if there is one; and where it ends. None for a power too large to compute."""
        found = self.base(at, depth)
        raised = re.compile(r" ?\^ ?").match(self.text, found[1]) if found else None
        if not found or not raised:
            return found
        base, _ = found
        exponent = self.argument(raised.end(), depth)
        if not exponent or not exponent[0].is_rational or exponent[0].value.denominator != 1 or base.infinite:
            return None
        n = int(exponent[0].value)
        size = max(base.value.numerator.bit_length(), base.value.denominator.bit_length())
        if base.imag or abs(n) > LARGEST_POWER or size * abs(n) > LARGEST_BITS or (n < 0 and not base.value):
            return None
        return Number(base.value**n, exact=base.exact), exponent[1]

    def argument(self, at: int, depth: int) -> Read:
        """What a fraction, root or power takes: a group in braces or brackets, or a short number."""
        if self.text[at : at + 1] in ("{", "("):
            return self.group(at, depth)
        short = re.compile(r"-?\d+").match(self.text, at)
        if short and len(short[0]) < 6:
            return Number(Fraction(int(short[0]))), short.end()
        return self.base(at, depth)

    def group(self, at: int, depth: int) -> Read:
        """What stands in brackets, if it is one number."""
        closing = {"{": "}", "(": ")"}[self.text[at]]
        inner = self.total(at + 1 + (self.text[at + 1 : at + 2] == " "), depth + 1) if depth < DEEPEST else None
        if not inner:
            return None
        end = inner[1] + (self.text[inner[1] : inner[1] + 1] == " ")
        return (inner[0], end + 1) if self.text[end : end + 1] == closing else None

    def base(self, at: int, depth: int) -> Read:
        """The number at this position without an exponent: a bracket, constant, fraction, root or numeral; and its end."""
        text = self.text
        if depth >= DEEPEST:
            return None
        if text[at : at + 1] in ("(", "{"):
            return self.group(at, depth)
        constants = r"π|pi(?![A-Za-z])|∞|(?:\+?inf(?:inity)?|unendlich)(?![A-Za-z])|[ie](?![A-Za-z])"
        if constant := re.compile(constants).match(text, at):
            return self.constant(constant[0]), constant.end()
        if text.startswith("\\frac", at):
            return self.fraction(at + 5, depth)
        if root := re.compile(r"(?:\\sqrt ?(?:\[ ?(\d)\ ?])?|√|sqrt(?=\()) ?").match(text, at):
            inner = self.argument(root.end(), depth + 1)
            value = rooted(inner[0], int(root[1] or 2)) if inner else None
            return (value, inner[1]) if inner and value else None
        return self.numeral(at, depth)

    def constant(self, name: str) -> Number:
        """The value of `i`, `e`, `π` or infinity. `e` and `π` are inexact."""
        if name == "i":
            return Number(Fraction(0), Fraction(1))
        if name == "e":
            return Number(E, exact=False)
        return Number(PI, exact=False) if name in ("π", "pi") else Number(Fraction(0), infinite=1)

    def fraction(self, at: int, depth: int) -> Read:
        r"""The value of a LaTeX fraction, read from behind `\frac`, and where it ends. None for division by zero."""
        at += self.text[at : at + 1] == " "
        above = self.short_or_group(at, depth)
        below = self.short_or_group(above[1], depth) if above else None
        value = quotient(above[0], below[0]) if above and below else None
        return (value, below[1]) if value and below else None

    def short_or_group(self, at: int, depth: int) -> Read:
        """`{12}` or one digit, as `\\frac12` takes them."""
        at += self.text[at : at + 1] == " "
        if self.text[at : at + 1].isdigit():
            return Number(Fraction(int(self.text[at]))), at + 1
        return self.group(at, depth + 1) if self.text[at : at + 1] == "{" else self.base(at, depth + 1)

    def numeral(self, at: int, depth: int) -> Read:
        """Digits, with the fraction of a mixed number (`1 1/2`) and the period of a repeating one (`0.(3)`)."""
        for shape in (WITHOUT_COMMAS,) if self.lists else (NUMERAL, WITHOUT_COMMAS, re.compile(r"\d+")):
            match = shape.match(self.text, at)
            if match and (found := read_numeral(match[0], self.comma)):
                break
        else:
            return None
        end, number = match.end(), Number(found.value, places=found.places)
        if match[0].isdigit() and (period := REPEATING.match(self.text, end)):
            return Number(found.value + repeating(period[1], period[2])), period.end()
        if goes_on := GOES_ON.match(self.text, end):
            return going_on(number, match[0]), goes_on.end()
        if number.places is None and (mixed := MIXED.match(self.text, end)) and int(mixed[2]):
            part = Fraction(int(mixed[1]), int(mixed[2]))
            return (Number(found.value + part), mixed.end()) if part < 1 else None
        if number.places is None and re.compile(r" ?\\frac").match(self.text, end):
            part_read = self.fraction(self.text.index("\\frac", end) + 5, depth)
            if part_read and part_read[0].is_rational and 0 < part_read[0].value < 1:
                return Number(found.value + part_read[0].value), part_read[1]
        return number, end


def scaled(number: Number, sign: int) -> Number:
    """The number times `sign`, which is 1 or -1."""
    return replace(number, value=number.value * sign, imag=number.imag * sign, infinite=number.infinite * sign)


def multiplied(a: Number, b: Number) -> Number | None:
    """The product of two numbers, complex ones included; None if one is infinite or too large."""
    if a.infinite or b.infinite or max(a.value.numerator.bit_length(), b.value.numerator.bit_length()) > LARGEST_BITS:
        return None
    return Number(
        a.value * b.value - a.imag * b.imag, a.value * b.imag + a.imag * b.value, exact=a.exact and b.exact
    )


def quotient(a: Number, b: Number) -> Number | None:
    """One number by another; None where that is not a number."""
    size = b.value * b.value + b.imag * b.imag
    if a.infinite or b.infinite or not size or a.value.numerator.bit_length() > LARGEST_BITS:
        return None
    product = multiplied(a, replace(b, imag=-b.imag))
    return replace(product, value=product.value / size, imag=product.imag / size) if product else None


def rooted(number: Number, degree: int) -> Number | None:
    """A root: exact where it is rational, else to 60 digits; of a negative number's square root, the imaginary one."""
    if number.imag or number.infinite or degree < 2 or number.value.numerator.bit_length() > 2_000:
        return None
    if number.value < 0 and degree != 2:
        return None
    value = abs(number.value)
    above, below = (nth_root(part, degree) for part in (value.numerator, value.denominator))
    exact = above**degree == value.numerator and below**degree == value.denominator
    if not exact:
        above = nth_root(value.numerator * value.denominator ** (degree - 1) * 10 ** (60 * degree), degree)
        below = value.denominator * 10**60
    root = Fraction(above, below)
    exact = exact and number.exact
    return Number(root, exact=exact) if number.value >= 0 else Number(Fraction(0), root, exact=exact)


def nth_root(value: int, degree: int) -> int:
    """The whole part of a root, by halving."""
    if degree == 2:
        return isqrt(value)
    low, high = 0, 1 << (value.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= value else (low, middle - 1)
    return low


def repeating(before: str, period: str) -> Fraction:
    """The part behind the point that goes on with a period: 1/6 for `1` and `6`."""
    start = Fraction(int(before or 0), 10 ** len(before))
    return start + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(before))


def going_on(number: Number, text: str) -> Number:
    """A numeral followed by dots: its period goes on where it shows one (`0.333...`), or else no more is known."""
    found = re.search(r"^(\d*)[.,](\d{0,40}?)(?:(\d)\3\3+|(\d\d|\d{3})\4+)$", text)
    if not found:
        return number
    return Number(integer(found[1] or "0") + repeating(found[2], found[3] or found[4]))
