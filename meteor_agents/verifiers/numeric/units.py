"""Units: what each measures, how large it is, and reading one after a number."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of measurement or a currency."""

    dimension: str
    """What it measures, such as `length^2`, `length time^-1`, `USD` or `%`."""
    factor: Fraction = Fraction(1)
    """How many of the dimension's base unit it is: for centimetres 1/100."""
    also: str = ""
    """Another dimension that the same word may mean, which is not converted: a pound is a weight or a currency."""
    compound: bool = False
    """Whether the amount was written in several units, as in `3 h 28 min`: then no bare number stands for it."""

    def from_unit(self, other: Unit) -> Fraction | None:
        """How many of this unit one of another is; None if they measure different things."""
        if self.dimension == other.dimension:
            return other.factor / self.factor
        if self.dimension in (other.also, "") or other.dimension == self.also:
            return Fraction(1)
        return None

    def view(self) -> str:
        """The dimension, to stand after the amount in its base unit."""
        return f"{self.dimension} or {self.also}" if self.also else self.dimension


class Entry(NamedTuple):
    """One unit of the table: the powers of its base dimensions, and how many base units it is."""

    powers: tuple[tuple[str, int], ...]
    factor: Fraction
    also: str = ""


PREFIXES = {
    "T tera": "1e12", "G giga": "1e9", "M mega": "1e6", "k kilo": "1e3", "h hecto": "100", "d deci": "0.1",
    "c centi": "0.01", "m milli": "0.001", "µ micro": "1e-6", "μ micro": "1e-6", "n nano": "1e-9", "p pico": "1e-12",
}  # fmt: skip
PREFIXED = {
    "m meter metre mètre metro": ("length", 1), "g gram gramme gramm gramo": ("mass", 1),
    "s second sec": ("time", 1), "l liter litre litro": ("volume", 1), "L": ("volume", 1), "W watt": ("power", 1),
    "J joule": ("energy", 1), "N newton": ("force", 1), "Pa pascal": ("pressure", 1), "V volt": ("voltage", 1),
    "A ampere amp": ("current", 1), "Hz hertz": ("frequency", 1), "Ω ohm": ("resistance", 1), "Wh": ("energy", 3600),
    "mol mole": ("amount", 1), "eV": ("electronvolt", 1), "cal calorie": ("calorie", 1), "B byte": ("byte", 1),
    "bit": ("bit", 1), "t tonne": ("mass", 1_000_000), "C coulomb": ("charge", 1), "F farad": ("capacitance", 1),
}  # fmt: skip
PLAIN = {
    "min mins minute minutes Minute Minuten minuto minutos": ("time", "60"),
    "h hr hrs hour hours Stunde Stunden Std heure heures hora horas час часа часов": ("time", "3600"),
    "sec secs Sekunde Sekunden seconde secondes segundo segundos": ("time", "1"),
    "d day days Tag Tage Tagen jour jours día días": ("time", "86400"),
    "week weeks Woche Wochen semaine semaines semana semanas wk": ("time", "604800"),
    "month months Monat Monate mois mes meses": ("month", "1"),
    "year years yr yrs Jahr Jahre Jahren ans an année années año años": ("month", "12"),
    "in inch inches": ("length", "0.0254"), "ft foot feet": ("length", "0.3048"), "yd yard yards": ("length", "0.9144"),
    "mi mile miles": ("length", "1609.344"), "oz ounce ounces": ("mass", "28.349523125"),
    "lb lbs": ("mass", "453.59237"), "ton tons": ("ton", "1"), "gal gallon gallons": ("gallon", "1"),
    "ha hectare hectares": ("area", "10000"), "acre acres": ("acre", "1"), "cc": ("volume", "0.001"),
    "bar bars": ("pressure", "100000"), "atm": ("atmosphere", "1"), "rpm": ("rpm", "1"), "bpm": ("bpm", "1"),
    "dB": ("decibel", "1"), "KB": ("byte", "1000"), "KiB": ("byte", "1024"), "MiB": ("byte", "1048576"),
    "GiB": ("byte", "1073741824"), "K kelvin kelvins": ("kelvin", "1"), "°C celsius Celsius ℃": ("celsius", "1"),
    "°F fahrenheit Fahrenheit ℉": ("fahrenheit", "1"), "° degree degrees deg Grad": ("degree", "1"),
    "rad radian radians": ("radian", "1"), "% percent pct Prozent percentage": ("%", "1"),
    "‰": ("%", "0.1"), "dollar dollars Dollar USD usd $ US$": ("USD", "1"), "cent cents ¢": ("USD", "0.01"),
    "euro euros Euro Euros EUR eur €": ("EUR", "1"), "GBP £": ("GBP", "1"), "pence": ("GBP", "0.01"),
    "yen JPY ¥ 円": ("JPY", "1"), "yuan CNY RMB 元": ("CNY", "1"), "rupee rupees INR Rs ₹": ("INR", "1"),
    "ruble rubles rouble roubles RUB руб ₽": ("RUB", "1"), "CHF": ("CHF", "1"), "CAD": ("CAD", "1"),
    "AUD": ("AUD", "1"), "won KRW ₩": ("KRW", "1"), "kcal": ("calorie", "1000"),
}  # fmt: skip
SPEEDS = {"mph": "1609.344", "kph": "1000", "kmh": "1000"}
CURRENCY_SIGN = re.compile(r"(?:US ?\$|USD|EUR|GBP|CHF|INR|JPY|CNY|Rs\.?|[$€£¥₹₽₩]) ?")
WORD = re.compile(r"(?:degrees?|deg|Grad) (?:[Cc]elsius|[Ff]ahrenheit)|°[CF]\b|US\$|[$€£¥₹₽₩¢%‰°℃℉元円]|[^\W\d_]+")
POWER = re.compile(r"\^ ?\{? ?\(?(-?\d)\)? ?\}?|(\d)(?![\d.,])")
SQUARE = re.compile(r"(?:(sq(?:uare)?\.?|quadrat|carré)|(cubic|cu\.?|kubik)) ?", re.IGNORECASE)
JOINED = re.compile(r" ?(/|\*| per | pro | par | por | \* ) ?| (?=[A-Za-z]{1,3} ?\^)")
PRONE = ("in", "A", "an", "t", "d")
"""Units that are words, too: they count only where no word follows."""


@cache
def known_units() -> dict[str, Entry]:
    """Every unit by every name that is read."""
    found: dict[str, Entry] = {}
    for names, (dimension, size) in PREFIXED.items():
        for name in names.split():
            found |= {name: entry(dimension, size)} | ({name + "s": entry(dimension, size)} if len(name) > 2 else {})
            for (symbol, word), factor in ((key.split(), Fraction(value)) for key, value in PREFIXES.items()):
                long = len(name) > 2 and name not in ("mol", "cal", "bit")
                found[(word if long else symbol) + name] = entry(dimension, size * factor)
                if long:
                    found[word + name + "s"] = entry(dimension, size * factor)
    for names, (dimension, text) in PLAIN.items():
        found |= {name: entry(dimension, Fraction(text)) for name in names.split()}
    found |= {name: entry("mass", Fraction("453.59237"))._replace(also="GBP") for name in ("pound", "pounds")}
    found |= {
        name: Entry((("length", 1), ("time", -1)), Fraction(size) / 3600) for name, size in SPEEDS.items()
    }
    return found


def entry(dimension: str, size: Fraction | int) -> Entry:
    """A unit by its dimension, with volumes and areas as powers of length."""
    match dimension:
        case "volume":
            return Entry((("length", 3),), Fraction(size) / 1000)
        case "area":
            return Entry((("length", 2),), Fraction(size))
        case _:
            return Entry(((dimension, 1),), Fraction(size))


def read_unit(text: str, at: int) -> tuple[Unit, int] | None:
    """The unit that begins at a place of a text, and where it ends: `cm^2`, `km/h`, `square metres`, `°C`, `$`."""
    powers: Counter[str] = Counter()
    factor, also, end, sign = Fraction(1), "", at, 1
    while part := read_one(text, end):
        found, power, end = part
        for dimension, exponent in found.powers:
            powers[dimension] += exponent * power * sign
        factor *= found.factor ** (power * sign)
        also = found.also if at == 0 or not also else also
        joined = JOINED.match(text, end)
        if not joined or not read_one(text, joined.end()):
            return Unit(dimension_name(powers), factor, also), end
        sign = -1 if joined[1] and joined[1] != "*" and joined[1] != " * " else 1
        end = joined.end()
    return None


def read_one(text: str, at: int) -> tuple[Entry, int, int] | None:
    """One unit of a product, its power, and where it ends."""
    square = SQUARE.match(text, at)
    word = WORD.match(text, square.end() if square else at)
    if not word:
        return None
    name = word[0].split(" ")[-1]
    found = known_units().get(name) or (known_units().get(name.lower()) if len(name) > 1 else None)
    if not found or (name in PRONE and re.match(r" [^\W\d]", text[word.end() : word.end() + 2])):
        return None
    power = POWER.match(text, word.end())
    raised = int(power[1] or power[2]) if power else (2 if square[1] else 3) if square else 1
    return found, raised, power.end() if power else word.end()


def dimension_name(powers: Counter[str]) -> str:
    """The dimension as text, such as `length time^-2`. Dimensions with power 0 are left out."""
    return " ".join(f"{name}^{power}" if power != 1 else name for name, power in sorted(powers.items()) if power)
