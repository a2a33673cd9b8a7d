"""Taking off what only shows a text: invisible characters, Markdown, LaTeX boxes and text commands.

Every function reads each character a bounded number of times, so that no text is slow to read.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import groupby
from typing import NamedTuple

INVISIBLE = dict.fromkeys(
    [0xAD, 0x34F, 0x61C, 0x180E, 0xFEFF, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070)]
)
"""Zero-width spaces and joiners, direction marks, soft hyphens and byte order marks, for `str.translate`."""

LONGEST_MARKS = 30
"""Combining marks in a row that are normalised together (the limit of Unicode's Stream-Safe Text Format, UAX #15).
Sorting a longer run takes quadratic time."""

TAIL = 20_000
"""Characters at the end of a long text that are looked at for a number or a choice."""

SHOWN = re.compile(
    r"""
      (?P<struck> ~~ [^~\n]{1,200} ~~ )                         # crossed out: no longer said
    | (?P<fence> ^[ ]{0,3} (?:`{3,}|~{3,}) [^\n`]*$ )             # the line of a code fence
    | (?P<lead> ^[ ]{0,3} (?:\#{1,6}[ ]|>[ ]?)+ )                 # a heading, a quotation
    | (?P<strong> \*\*\*? | ___? )
    | (?P<code> `+ )
    | (?P<tag> </?(?:b|strong|i|em|u|mark|code|answer|p|span)> )
    | (?P<single> (?<![\w*_\\]) [*_] (?=\w) (?P<inner>[^*_\n]{1,200}) (?P<close>[*_]) (?![\w*_]) )
    """,
    re.VERBOSE | re.MULTILINE,
)
TEXT_COMMAND = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|up)?|math(?:bf|rm|sf|it|tt|bb)|mbox|operatorname|emph|underline)\*? ?\{([^{}]{0,200})\}"
)
BOX_OR_BRACE = re.compile(r"\\(?:f?boxed|fbox) ?\{|\\[{}]|[{}]")
SPACES = re.compile(r"[^\S\n]+")


class Box(NamedTuple):
    """What stands in a LaTeX box, and where the whole box stands in the text."""

    start: int
    end: int
    inner: str


def visible(text: str) -> str:
    """The text without invisible characters."""
    return text if text.isascii() else text.translate(INVISIBLE)


def composed(text: str) -> str:
    """The text in Unicode's compatibility form NFKC: full-width letters and digits become plain ones."""
    if text.isascii():
        return text
    return "".join(unicodedata.normalize("NFKC", piece) for piece in pieces(text))


def pieces(text: str) -> list[str]:
    """The text cut wherever more than `LONGEST_MARKS` combining marks follow each other."""
    cuts, at = [0], 0
    for is_mark, run in groupby(text, lambda char: unicodedata.combining(char) != 0):
        length = sum(1 for _ in run)
        if is_mark:
            cuts.extend(range(at + LONGEST_MARKS, at + length, LONGEST_MARKS))
        at += length
    return [text[start:end] for start, end in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def tail(text: str, limit: int = TAIL) -> str:
    """The whole text, or of a longer one the whole lines among its last `limit` characters."""
    return text if len(text) <= limit else text[-limit:].partition("\n")[2]


def boxes(text: str) -> list[Box]:
    """The closed `\\boxed{...}` of a text, in the order in which they end; one inside another is left out."""
    found: list[Box] = []
    opened: list[re.Match[str] | None] = []
    for match in BOX_OR_BRACE.finditer(text):
        if match[0] in ("\\{", "\\}"):
            continue
        if match[0] != "}":
            opened.append(match if match[0] != "{" else None)
        elif opened and (start := opened.pop()) and not any(opened):
            found.append(Box(start.start(), match.end(), text[start.end() : match.start()]))
    return found


def unboxed(text: str) -> str:
    """The text with each box replaced by what is in it."""
    parts, at = [], 0
    for box in boxes(text):
        parts += [text[at : box.start], box.inner]
        at = box.end
    return "".join([*parts, text[at:]])


def unmarked(text: str) -> str:
    """The text without Markdown: emphasis, headings, quotations, fences and code marks go, crossed-out text with them.

    A star or underscore between letters or digits (`x*y*z`, `snake_case`) stays.
    """
    return SHOWN.sub(without_mark, text)


def without_mark(match: re.Match[str]) -> str:
    """What replaces one match of Markdown: the text inside, nothing, or the match itself where it is no mark."""
    match match.lastgroup:
        case "strong":
            text, start, end = match.string, match.start(), match.end()
            inside_word = start > 0 and end < len(text) and is_word(text[start - 1]) and is_word(text[end])
            return match[0] if inside_word else ""
        case "single" | "close" | "inner":
            return match["inner"] if match[0][0] == match["close"] else match[0]
        case _:
            return ""


def is_word(char: str) -> bool:
    """Whether a mark next to this character would stand inside a word: letters, digits, `_` and brackets."""
    return char.isalnum() or char in "_)("


def untexted(text: str) -> str:
    """The text with `\\text{cm}` and the like replaced by what is in them."""
    return TEXT_COMMAND.sub(r" \1 ", text) if "\\" in text else text


def single_spaced(text: str) -> str:
    """The text with one blank for each run of spaces within a line, and no blank at the ends of lines."""
    return "\n".join(line.strip() for line in SPACES.sub(" ", text).split("\n"))
