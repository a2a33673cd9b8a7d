"""Where in a reply the answer stands: in a box, after `The answer is`, alone, on its own line, or the only value."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice

from meteor_agents.verifiers.markup import boxes, tail, unboxed, visible
from meteor_agents.verifiers.numeric.numerals import shows_comma
from meteor_agents.verifiers.numeric.quantities import Quantities
from meteor_agents.verifiers.numeric.tidy import tidy
from meteor_agents.verifiers.numeric.values import Rounded, Scalar, Several, Value, same, view
from meteor_agents.verifiers.wording import AND, CLAUSE_END, LONGEST_CLAUSE, NEGATION, OR, announced, standing

MOST_VALUES = 50
"""Numbers of a text that are looked at, where nothing says which one is the answer."""
LONGEST_VALUE = 1_000
"""Characters of the longest value that is read, apart from one numeral alone, which may fill the text."""
LONG_NUMERAL = re.compile(r"[-+]?\d+(?:(?:,\d{3})+|(?:\.\d{3})+|(?: \d{3})+|(?:'\d{3})+)?(?:[.,]\d+)?")
BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*")
SENTENCE = re.compile(
    r"(?<=[.!?])(?<!\b(?:no|nr|ca|vs|dr|mr|eq|st)\.)(?<!approx\.)(?<!\b[ap]\.m\.)(?<!\b[ap]\.)\s+(?!\d)|[。！？]|\n+",
    re.IGNORECASE,
)
START = re.compile(
    r"(?<![\w.,^\\|])(?:(?:minus|negative) )?(?:(?<![\w)\]] )[-+–] ?|(?<![\w)\]])[-+–])?"
    r"(?:(?:(?:US)?[$€£¥₹] ?)?-?\d|\.\d|\\frac|\\sqrt|√|π|∞)"
)
"""Where a value may begin within a sentence."""
TIES = re.compile(
    r"(?:\b(?:is|are|was|be|equals?|equal to|makes|gives|yields|totals?|ist|sind|gleich|ergibt|macht|est|font|es|son|"
    r"равно|это)\b|(?<![<>!=])=(?!=)|≈|→|=>|⇒|是|为|は) ?",
    re.IGNORECASE,
)
"""What joins a question to its answer in a sentence: `The sum of 3 and 4 is 7`."""
FILLER = re.compile(
    r"(?:[\s:=→]|(?:the|number|value|just|only|simply|clearly|therefore|thus|then|that|it is|equal to|of"
    r"|die|der|das|le|la|el)\b)+",
    re.IGNORECASE,
)
NOT_OVER = re.compile(
    r" ?(?:[+*/^=±×]|-(?!-)|–) ?[\w(\\]|[<>≤≥]|[A-Za-z0-9\u00c0-\u024f\u0370-\u04ff(\\^_]|[.,:]\d| ?[-+*/^]$"
)
"""What must not follow a value: it goes on, or was not understood."""
WORDS_AFTER = re.compile(r"(?:[ -][^\W\d_]+){0,5} ?(?:\([^()]{0,300}\))? ?[.!,;:…\s\"')]*")
LAST_POINT = re.compile(r"(?<!\.)\.$")
FACTORIAL = re.compile(r"\d!$")
"""A factorial, which is looked for in a reference only; in a reply it is an exclamation."""
IN_FORMULA = re.compile(r"(?:[+*/^]|(?:\b\w|[)\]}]) ?[-–]) ?$")
"""What before a number makes it a part of something else, as in `x^2 + 1`."""
DENIED = re.compile(
    r"[ \w]{0,30}?\b(?:wrong|incorrect|false|falsch|faux|incorrecto)\b|"
    r" ?(?:is|was|are|ist|est|es|cannot|can|isn't|wasn't)(?: not| nicht| pas|n't| be)|(?:不对|错|不正确|間違)",
    re.IGNORECASE,
)
ALTERNATIVE = re.compile(
    rf"(?:\b{OR}\b|或|または)[^.;:(]{{0,40}}?\d|(?:\b{AND}\b|和) ?[$€£¥]?-?\d", re.IGNORECASE)
REASON = re.compile(
    r"[.;:(]|,? \b(?:because|since|as|for|after|if|when|weil|da|denn|nach|car|parce|après|porque|ya que)\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Notation:
    """How the numbers of a question are written, judging by its reference."""

    comma: bool = False
    """Whether a lone comma before three digits is a decimal comma."""
    like: Value | None = None
    """The value of the reference."""

    @classmethod
    def of(cls, reference: str) -> Notation:
        """The notation that a reference shows; English where it shows none."""
        plain = tidy(visible(tail(reference)))
        if FACTORIAL.search(plain):
            return cls()
        comma = bool(shows_comma(plain))
        return cls(comma, answer_value(reference, cls(comma)))


def answer_value(text: str, notation: Notation) -> Value | None:
    """The one value that a text gives as its answer; None where there is none, or where several stay open.

    >>> answer_value("So 3 + 4 = 7.", Notation())
    Scalar(value=Fraction(7, 1), imag=Fraction(0, 1), unit=None, places=None, exact=True, infinite=0)
    """
    text = standing(visible(tail(text)).replace("\r\n", "\n"))
    if found := boxes(text):
        between = text[found[-2].end : found[-1].start] if len(found) > 1 else "."
        return None if len(between) < 12 and "." not in between else whole_value(tidy(found[-1].inner), notation)
    _, mark, marked = text.rpartition("####")
    if mark and (value := whole_value(tidy(marked), notation)) is not None:
        return value
    plain = tidy(unboxed(text))
    start, _ = announced(plain)
    if start is not None:
        return leading_value(plain[start:], notation)
    if (value := whole_value(plain, notation)) is not None:
        return value
    bolds = islice(BOLD.finditer(text), MOST_VALUES)
    bold = {view(value): value for match in bolds if (value := whole_value(tidy(match[1]), notation))}
    if len(bold) == 1:
        return bold.popitem()[1]
    sentences = [part.strip() for part in SENTENCE.split(plain) if part.strip()]
    edges = [value for part in (sentences[:1] + sentences[1:][-1:]) if (value := whole_value(part, notation))]
    if edges:
        return edges[0] if len({view(value) for value in edges}) == 1 else None
    return told_value(sentences, notation)


def whole_value(text: str, notation: Notation) -> Value | None:
    """The value of a text that is nothing but one, with at most a few words or a remark in brackets after it."""
    text = LAST_POINT.sub("", text.strip())
    if len(text) > LONGEST_VALUE and LONG_NUMERAL.fullmatch(text):
        found = Quantities(text, notation.comma).quantity(0)
        return found[0] if found and found[1] == len(text) else None
    if not text or len(text) > LONGEST_VALUE or "\n" in text:
        return None
    if (value := read_fully(text, notation)) is not None:
        return value
    left, sign, right = text.rpartition("≈")
    if sign and (rounded := read_fully(right.strip(), notation)):
        return with_rounding(whole_value(left, notation), rounded) if left.strip() else rounded
    left, sign, right = text.rpartition("=")
    if not sign or left.endswith(("<", ">", "!", "=", "≤", "≥")):
        return None
    if (value := read_fully(right.strip(), notation)) is not None:
        return value
    return read_fully(left.strip(), notation) if re.fullmatch(r"[A-Za-z]\w?", right.strip()) else None


def with_rounding(exact: Value | None, rounded: Value) -> Value | None:
    """A value with its rounding, where one is the other's."""
    if exact is None:
        return rounded
    if not isinstance(exact, Scalar) or not isinstance(rounded, Scalar):
        return None
    limit = Fraction(1, 2 * 10 ** (rounded.places or 0))
    agree = same(rounded, exact, lambda one, other: max(abs(one.value - other.value), abs(one.imag - other.imag)) <= limit)
    return Rounded(exact, rounded) if agree else None


def read_fully(text: str, notation: Notation) -> Value | None:
    """The value, if the text is that value and plain words only; None with a negation or an alternative after it."""
    found = read_at(text, 0, notation)
    if not found or not WORDS_AFTER.fullmatch(text, found[1]):
        return None
    rest = text[found[1] :]
    return None if NEGATION.search(rest) or re.search(rf"\b{OR}\b", rest, re.IGNORECASE) else found[0]


def read_at(text: str, at: int, notation: Notation) -> tuple[Value, int] | None:
    """The value at a place, in the notation that the text itself shows, or else in the reference's."""
    part = text[at : at + LONGEST_VALUE]
    shown = shows_comma(part)
    comma = notation.comma if shown is None else shown
    lists = isinstance(notation.like, Several) and notation.like.opening in ("", "(", "[", "{", "<")
    lists = lists and not re.search(r"\d, |;|\d,\d{3}\b", part)
    found = Quantities(part, comma, lists, notation.like).value(0)
    if not found or NOT_OVER.match(part, found[1]) or (found[1] == len(part) and at + len(part) < len(text)):
        return None
    return found[0], at + found[1]


def leading_value(text: str, notation: Notation) -> Value | None:
    """The value at the start of what follows `The answer is`, or the only one in its first sentence."""
    filler = FILLER.match(text)
    text = text[filler.end() :] if filler else text
    sentence = next((part.strip() for part in SENTENCE.split(text) if part.strip()), "")
    if (value := whole_value(sentence, notation)) is not None:
        return value
    found = read_at(sentence, 0, notation)
    if found:
        rest = sentence[found[1] :]
        ends = REASON.search(rest)
        tied = TIES.search(rest[: ends.start()] if ends else rest)
        if not tied:
            return None if ALTERNATIVE.search(rest[: ends.start()] if ends else rest) else found[0]
    return told_value([sentence], notation)


def told_value(sentences: list[str], notation: Notation) -> Value | None:
    """The only value that the sentences mention; of several, the one that the last sentence gives after `is` or `=`."""
    values: dict[str, Value] = {}
    mentions = (value for sentence in sentences for value in mentioned(sentence, notation))
    for count, value in enumerate(mentions):
        if value is None or count == MOST_VALUES:
            return concluded(sentences, notation)
        values[view(value)] = value
    return values.popitem()[1] if len(values) == 1 else concluded(sentences, notation) if values else None


def mentioned(sentence: str, notation: Notation) -> Iterator[Value | None]:
    """The values in a sentence that are not denied; None for something like a number that cannot be read."""
    at = 0
    for _ in range(MOST_VALUES):
        start = START.search(sentence, at)
        if not start:
            return
        found = read_at(sentence, start.start(), notation)
        before = sentence[max(0, start.start() - LONGEST_CLAUSE) : start.start()]
        at = max(found[1] if found else start.end(), start.end())
        denied = NEGATION.search(CLAUSE_END.split(before)[-1]) or DENIED.match(sentence, at)
        if not denied:
            yield found[0] if found and not IN_FORMULA.search(before) else None
    yield None


def concluded(sentences: list[str], notation: Notation) -> Value | None:
    """The value after the last `is`, `makes` or `=` of the last sentence that has a number."""
    last = next((part for part in reversed(sentences) if any(char.isdigit() for char in part)), "")
    for tie in reversed(list(TIES.finditer(last))[-MOST_VALUES:]):
        filler = FILLER.match(last, tie.end())
        found = read_at(last, filler.end() if filler else tie.end(), notation)
        if found:
            rest = last[found[1] :]
            denied = NEGATION.search(CLAUSE_END.split(last[max(0, tie.start() - LONGEST_CLAUSE) : tie.start()])[-1])
            return None if denied or ALTERNATIVE.search(rest) or NEGATION.search(rest) else found[0]
    return None
