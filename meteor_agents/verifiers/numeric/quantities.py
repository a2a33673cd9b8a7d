"""Reading one value at a place of a tidy text: a quantity, date, ratio, range, interval, tuple, set or list."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from meteor_agents.verifiers.numeric.amounts import Amounts
from meteor_agents.verifiers.numeric.dates import read_when
from meteor_agents.verifiers.numeric.numerals import read_numeral
from meteor_agents.verifiers.numeric.values import Scalar, Several, Value
from meteor_agents.verifiers.wording import AND, OR

LONGEST_GROUP = 2_000
"""Characters of the longest tuple, interval or set."""
MOST_ITEMS = 100

ABOUT = re.compile(
    r"(?:[≈~]|(?:about|approximately|approx\.?|roughly|around|exactly|ca\.|circa|etwa|ungefähr|rund|genau|environ|"
    r"aproximadamente|unos|примерно|около|约|約)(?![^\W\d])) ?",
    re.IGNORECASE,
)
LABEL = re.compile(r"([A-Za-zα-ωΑ-Ω](?:_?\{?\w{1,6}\}?)?'?(?:\([a-z]\))?) ?=(?!=) ?")
COMPARISONS = {
    "<": "(", "≤": "[", "<=": "[", ">": ")", "≥": "]", ">=": "]",
    "less than": "(", "fewer than": "(", "below": "(", "under": "(", "at most": "[", "up to": "[", "no more than": "[",
    "more than": ")", "greater than": ")", "over": ")", "above": ")", "at least": "]", "no less than": "]",
    "weniger als": "(", "höchstens": "[", "mehr als": ")", "mindestens": "]", "moins de": "(", "au plus": "[",
    "plus de": ")", "au moins": "]", "menos de": "(", "más de": ")", "al menos": "]",
}  # fmt: skip
"""The bracket at the given end: `(` and `[` end below it, `)` and `]` begin above it."""
COMPARISON = re.compile(
    rf"(?:[A-Za-z] ?(?=[<>≤≥]))?({'|'.join(re.escape(key) for key in sorted(COMPARISONS, key=len, reverse=True))})"
    r"(?![^\W\d]) ?",
    re.IGNORECASE,
)
TWO_SIDED = re.compile(r" ?(<=?|≤) ?[A-Za-z] ?(<=?|≤) ?")
BETWEEN = re.compile(r"(between|from|zwischen|von|entre|de|от) ", re.IGNORECASE)
RANGE = re.compile(r" ?[-–] ?| (?:to|bis|à|a|до) |(?:至|到|から)", re.IGNORECASE)
RATIO = re.compile(r"\d+(?:\.\d+)?(?: ?: ?\d+(?:\.\d+)?)+")
NEXT = re.compile(rf"(?: ?[,;]|(?= (?:{OR}|{AND}) )|(?=或|和)) ?(?:({OR}|{AND}|&|∨) (?!=)|(或|和))? ?", re.IGNORECASE)
CLOSING = {"(": ")]", "[": "])", "{": "}", "<": ">"}
INFINITY = Scalar(Fraction(0), infinite=1)

Found = tuple[Value, int] | None


@dataclass(frozen=True, slots=True)
class Quantities:
    """Reads values of one text in one notation."""

    text: str
    comma: bool = False
    lists: bool = False
    like: Value | None = None
    """The value that is expected: it decides what `(1,234)` and `1,2` are."""

    def value(self, at: int) -> Found:
        """The value that begins at a place, with the ones listed after it; and where it ends."""
        labels = []
        if label := LABEL.match(self.text, at):
            labels, at = [label[1]], label.end()
        first = self.single(at)
        if not first:
            return None
        items, end, joined = [first[0]], first[1], False
        while len(items) < MOST_ITEMS and (more := NEXT.match(self.text, end)):
            start = more.end()
            if label := LABEL.match(self.text, start):
                labels.append(label[1])
                start = label.end()
            following = self.single(start)
            if not following:
                break
            joined = joined or more[1] is not None or more[2] is not None
            items.append(following[0])
            end = following[1]
        if len(items) == 1:
            return first
        if len(labels) == len(items) == len(set(labels)):
            items = [item for _, item in sorted(zip(labels, items, strict=True), key=lambda pair: pair[0])]
            joined = False
        return Several("{", "}", tuple(items)) if joined else Several("", "", tuple(items)), end

    def single(self, at: int) -> Found:
        """One value, without a list after it."""
        if about := ABOUT.match(self.text, at):
            at = about.end()
        return read_when(self.text, at) or self.bounded(at) or self.group(at) or self.ratio(at) or self.range(at)

    def bounded(self, at: int) -> Found:
        """`x > 3`, `at least 3`, `3 < x ≤ 5`: an interval."""
        if sign := COMPARISON.match(self.text, at):
            found = self.quantity(sign.end())
            bracket = COMPARISONS[sign[1].lower()]
            if not found:
                return None
            below = bracket in ("(", "[")
            items = (replace(INFINITY, infinite=-1), found[0]) if below else (found[0], INFINITY)
            open_, close = ("(", ")" if bracket == "(" else "]") if below else ("(" if bracket == ")" else "[", ")")
            return Several(open_, close, items), found[1]
        low = self.quantity(at)
        sign = TWO_SIDED.match(self.text, low[1]) if low else None
        high = self.quantity(sign.end()) if sign else None
        if not low or not sign or not high:
            return None
        return Several("(" if sign[1] == "<" else "[", ")" if sign[2] == "<" else "]", (low[0], high[0])), high[1]

    def group(self, at: int) -> Found:
        """What stands in brackets, if it is more than one value, and the intervals united with it."""
        found = self.bracketed(at)
        groups = [found[0]] if found else []
        while found and (union := re.compile(r" ?(?:∪|U) ?").match(self.text, found[1])):
            more = self.bracketed(union.end())
            if not more:
                break
            groups.append(more[0])
            found = more
        if not found:
            return None
        return (groups[0], found[1]) if len(groups) == 1 else (Several("∪", "∪", tuple(groups)), found[1])

    def bracketed(self, at: int) -> Found:
        """The values in one pair of brackets, and where it ends: a tuple, interval or set, or one value in `[]` or `{}`."""
        opening = self.text[at : at + 1]
        end = closing_at(self.text, at) if opening in CLOSING and opening else None
        if end is None:
            return None
        inner, closing = self.text[at + 1 : end].strip(), self.text[end]
        numeral = read_numeral(inner, self.comma) if isinstance(self.like, Scalar) and "," in inner else None
        if numeral:
            return Scalar(numeral.value, places=numeral.places), end + 1
        parts = separated(inner)
        lists = "," in inner and ";" not in inner and len(parts) == 1 + inner.count(",")
        items = [Quantities(part, self.comma, lists or self.lists).whole() for part in parts]
        if any(item is None for item in items) or (len(items) == 1 and opening == "("):
            return None
        values = tuple(item for item in items if item is not None)
        return (values[0] if len(values) == 1 else Several(opening, closing, values)), end + 1

    def whole(self) -> Value | None:
        """The value of the whole text, if it is one and nothing else."""
        text = self.text.strip()
        if label := LABEL.match(text):
            text = text[label.end() :]
        found = Quantities(text, self.comma, self.lists).single(0)
        return found[0] if found and found[1] == len(text) else None

    def ratio(self, at: int) -> Found:
        """`3:2`, in its lowest terms."""
        match = RATIO.match(self.text, at)
        if not match:
            return None
        parts = [Fraction(part.strip()) for part in match[0].split(":")[:MOST_ITEMS] if len(part) < 300]
        total = sum(parts)
        if not total or len(parts) < 2:
            return None
        return Several(":", "", tuple(Scalar(part / total) for part in parts)), match.end()

    def range(self, at: int) -> Found:
        """`3-5 km`, `between 3 and 5`; or the quantity alone."""
        between = BETWEEN.match(self.text, at)
        low = self.quantity(between.end() if between else at)
        joint = re.compile(rf" {AND} ", re.IGNORECASE).match(self.text, low[1]) if low and between else None
        joint = joint or (RANGE.match(self.text, low[1]) if low else None)
        high = self.quantity(joint.end()) if joint else None
        if not low or not joint or not high:
            return None if between else low
        lower = low[0] if low[0].unit else replace(low[0], unit=high[0].unit)
        if self.text[low[1] : joint.end()].strip() in ("-", "–") and lower.value >= high[0].value:
            return None
        return Several("-", "", (lower, high[0])), high[1]

    def quantity(self, at: int) -> tuple[Scalar, int] | None:
        """One number with its unit, if it has one, and where it ends; None if there is no number."""
        return Amounts(self.text, self.comma, self.lists).quantity(at)


def closing_at(text: str, at: int) -> int | None:
    """Where the bracket that opens at a place closes."""
    depth = 0
    for place in range(at, min(len(text), at + LONGEST_GROUP)):
        char = text[place]
        if char in "([{" or (char == "<" and text[at] == "<"):
            depth += 1
        elif char in ")]}" or (char == ">" and text[at] == "<"):
            depth -= 1
            if depth == 0:
                return place if char in CLOSING[text[at]] else None
    return None


def separated(text: str) -> list[str]:
    """The items of a tuple or set: between semicolons, or commas with a blank after them, or any commas."""
    marks = ";" if ";" in text else ", " if ", " in text and not re.search(r",(?! |\d{3}(?!\d))", text) else ","
    parts, depth, start = [], 0, 0
    for place, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if depth == 0 and text.startswith(marks, place):
            parts.append(text[start:place].strip())
            start = place + len(marks)
    return [*parts, text[start:].strip()]


