"""What a text about a quantity can come to, and when two of these are the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from meteor_agents.verifiers.numeric.dates import When
from meteor_agents.verifiers.numeric.units import Unit

NOISE = Fraction(1, 10**30)
"""How far, relatively, two ways of computing the same root may differ."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number, real or complex, with its unit if it has one: `12 cm`, `75%`, `3+4i`, `∞`."""

    value: Fraction
    imag: Fraction = Fraction(0)
    unit: Unit | None = None
    places: int | None = None
    """How many decimals are written, for `3.10` two; None where none are."""
    exact: bool = True
    """False for a root or a multiple of π, known to 60 digits."""
    infinite: int = 0
    """1 for ∞, -1 for -∞."""

    @property
    def is_integer(self) -> bool:
        """Whether it is a whole number, written as one."""
        return self.exact and self.value.denominator == self.imag.denominator == 1 and not self.places


@dataclass(frozen=True, slots=True)
class Several:
    """Values together: a tuple, an interval, a set, a range, a ratio, or a list without brackets."""

    opening: str
    """`(`, `[`, `<`, `{` for a set in any order, `` for a bare list, `-` for a range, `:` for a ratio, `∪` for a union."""
    closing: str
    items: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Rounded:
    """A value and its rounding, as in `1/3 ≈ 0.33`: the two agree, and either may be meant."""

    exact: Scalar
    rounded: Scalar


Value = Scalar | Several | Rounded | When
Close = Callable[[Scalar, Scalar], bool]
"""Whether an expected number and a given one are close enough, both in the unit of the first."""


def same(expected: Value, given: Value, close: Close) -> bool:
    """Whether a given value is the expected one. Values of different kinds never are."""
    match expected, given:
        case Rounded(), _:
            return same(expected.exact, given, close) or same(expected.rounded, given, close)
        case _, Rounded():
            return same(expected, given.exact, close) or same(expected, given.rounded, close)
        case Scalar(), Scalar():
            return same_scalar(expected, given, close)
        case Several(), Several():
            return same_items(expected, given, close)
        case When(), When():
            return expected.matches(given)
        case _:
            return False


def same_scalar(expected: Scalar, given: Scalar, close: Close) -> bool:
    """Whether `given` is the expected number, after conversion of its unit. A missing unit is assumed where that is safe."""
    if expected.infinite or given.infinite:
        return expected.infinite == given.infinite
    ours, theirs = expected.unit, given.unit
    if ours == theirs:
        return close(expected, given)
    if ours and theirs:
        factor = ours.from_unit(theirs)
        return factor is not None and close(expected, times(given, factor))
    written = ours or theirs
    if written is None or written.compound:
        return False
    if written.dimension == "%":
        return any(close(expected, reading) for reading in percent_readings(expected, given))
    return close(expected, given)


def times(scalar: Scalar, factor: Fraction) -> Scalar:
    """The scalar multiplied by a factor, with the same unit."""
    return replace(scalar, value=scalar.value * factor, imag=scalar.imag * factor)


def percent_readings(expected: Scalar, given: Scalar) -> list[Scalar]:
    """What the given number may be, as the expected one is written, where only one of two numbers is a percentage.

    A bare number stands for the proportion (0.75 for 75 %). It also stands for the number of percent (75), unless it is a
    part of 1 that can only be meant as a proportion.
    """
    bare = given if expected.unit else expected
    as_number = [given] if abs(bare.value) > 1 or bare.value.denominator == 1 else []
    return [times(given, Fraction(100) if expected.unit else Fraction(1, 100)), *as_number]


def same_items(expected: Several, given: Several, close: Close) -> bool:
    """Lists agree item by item, sets in any order. A list without brackets may stand for a tuple, a list or a set."""
    ours, theirs = expected.opening + expected.closing, given.opening + given.closing
    bare = not ours or not theirs
    if len(expected.items) != len(given.items) or (ours != theirs and not (bare and ours + theirs in BRACKETS)):
        return False
    if "{}" not in (ours, theirs) and ours != "∪":
        return all(same(e, g, close) for e, g in zip(expected.items, given.items, strict=True))
    left = list(given.items)
    for item in expected.items:
        found = next((at for at, other in enumerate(left) if same(item, other, close)), None)
        if found is None:
            return False
        del left[found]
    return True


BRACKETS = ("()", "[]", "<>", "{}")


def view(value: Value) -> str:
    """One text for each value: values with equal texts are the same."""
    match value:
        case Scalar():
            return scalar_view(value)
        case Several():
            items = [view(item) for item in value.items]
            ordered = sorted(items) if value.opening in ("{", "∪") else items
            return f"{value.opening}{', '.join(ordered)}{value.closing}"
        case Rounded():
            return f"{view(value.exact)} ≈ {view(value.rounded)}"
        case When():
            return value.view()


def scalar_view(scalar: Scalar) -> str:
    """The number in its base unit, as text. Equal numbers give equal text."""
    if scalar.infinite:
        return "∞" if scalar.infinite > 0 else "-∞"
    factor = scalar.unit.factor if scalar.unit else Fraction(1)
    text = fraction_view(scalar.value * factor, scalar.exact)
    if scalar.imag:
        text += f" + {fraction_view(scalar.imag * factor, scalar.exact)} i"
    return f"{text} {scalar.unit.view()}" if scalar.unit else text


def fraction_view(value: Fraction, exact: bool) -> str:
    """The number in full; a root to about 25 digits. Hexadecimal where Python writes no decimal of that length."""
    if not exact and value:
        size = len(f"{abs(value.numerator):x}") - len(f"{value.denominator:x}")
        step = Fraction(16) ** (size - 22)
        value = round(value / step) * step
    long = value.numerator.bit_length() > 10_000 or value.denominator.bit_length() > 10_000
    return f"{value.numerator:#x}/{value.denominator:#x}" if long else str(value)
