"""A judge's reply -> the objects that it states as its own.

Read strictly first. What is mended is what can mean one thing only: backslashes that JSON does not know (`\\(x=3\\)`),
LaTeX commands that begin like an escape (`\\frac`), trailing commas, single or smart quotes, line breaks within strings,
Python's True, False and None, and keys in capitals. An object is never pieced together: one that does not close, or that
cannot be read, makes the whole reply unreadable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

from meteor_agents.json_objects import object_spans
from meteor_agents.safe_text import clean, parse_json
from meteor_agents.thoughts import split_thoughts

MOST_OBJECTS = 50
"""A reply with more objects than this does not count as a verdict."""


class Stated(NamedTuple):
    """What a reply states."""

    objects: tuple[dict[str, Any], ...]
    """The objects in the reply, with keys in lower case, without those that only repeat what the judge had to read."""
    alone: bool
    """Whether the reply is one object and nothing else, apart from thoughts and a code fence."""


def stated_objects(text: str, quoted: Iterable[str] = ()) -> Stated | None:
    """The objects in a reply, outside the judge's thoughts; None when one of them cannot be read, or there are
    more than `MOST_OBJECTS`.

    `quoted` are the texts that the judge was asked about. An object that stands in one of them is repeated, not stated;
    spacing, quotes, backslashes, commas and capitals make no difference.
    """
    reply = clean(split_thoughts(text)[1])
    spans = list(islice(object_spans(reply), MOST_OBJECTS + 1))
    if len(spans) > MOST_OBJECTS:
        return None
    known = [_squeezed(given) for given in quoted if "{" in given] if spans else []
    objects: list[dict[str, Any]] = []
    for span in spans:
        source = reply[span.start : span.end]
        if any(_squeezed(source) in given for given in known):
            continue
        content = read_object(source) if span.closed else None
        if content is None:
            return None
        objects.append(content)
    alone = len(spans) == 1 and _only_a_fence(reply[: spans[0].start], reply[spans[0].end :])
    return Stated(tuple(objects), alone)


def with_fields(stated: Stated, fields: Collection[str]) -> list[dict[str, Any]]:
    """The stated objects that have all these fields; one that holds them in an inner object, as `{"verdict": {...}}` does,
    has them as well."""
    opened = [variant for content in stated.objects for variant in _opened(content, fields)]
    return [content for content in opened if all(field in content for field in fields)]


def _opened(content: dict[str, Any], fields: Collection[str]) -> list[dict[str, Any]]:
    """The object, and itself with the fields of each inner object that has one of `fields`."""
    inner = [value for value in content.values() if isinstance(value, dict) and any(field in value for field in fields)]
    return [content, *({**content, **value} for value in inner)]


def read_object(source: str) -> dict[str, Any] | None:
    """A JSON object, with its keys stripped and in small letters; None when `source` is none, or says two things.

    >>> read_object("{'Status': 'correct', 'n': None,}")
    {'status': 'correct', 'n': None}
    """
    written = source
    if "\\" in source:
        written = _BACKSLASH.sub(lambda found: found[0] if found["known"] else f"\\{found[0]}", source)
    for mend in (False, True):
        text = _PIECE.sub(_mended, written) if mend else written
        try:
            value = parse_json(text, _unambiguous)
        except ValueError:
            continue
        return value if isinstance(value, dict) else None
    return None


def _unambiguous(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Raises `ValueError` for a key that is there twice with values that differ."""
    content: dict[str, Any] = {}
    for key, value in pairs:
        known = key.strip().casefold()
        if known in content and content[known] != value:
            raise ValueError(f"the key {known!r} stands twice")
        content[known] = value
    return content


_LATEX_N = "abla|eq|eg|ot|otin|leq|geq|mid|exists|parallel|subseteq|olimits|ewline"
_LATEX_T = "ext[a-z]{0,8}|imes|heta|an|anh|au|o|op|frac|herefore|ilde|riangle"
_BACKSLASH = re.compile(
    r"\\(?P<known>[\\\"'/]|u[0-9a-fA-F]{4}|[bfr](?![A-Za-z])"
    rf"|n(?!(?:{_LATEX_N})(?![A-Za-z]))|t(?!(?:{_LATEX_T})(?![A-Za-z])))?"
)
"""A backslash, and what follows it where it is an escape that JSON (or Python) knows. A form feed, a backspace or a carriage
return before a letter is none: the judge wrote `\\frac`, `\\beta` or `\\rho`."""

_PIECE = re.compile(
    r'"(?P<double>[^"\\]*+(?:\\.[^"\\]*+)*+)(?:"|\\?\Z)'
    r"|[“”](?P<smart>[^“”\\]*+(?:\\.[^“”\\]*+)*+)(?:[“”]|\\?\Z)"
    r"|'(?P<single>(?:[^'\\]|\\.|'(?!\s*[,:}\]]))*+)(?:'|\\?\Z)"
    r"|‘(?P<curved>(?:[^’\\]|\\.|’(?!\s*[,:}\]]))*+)(?:’|\\?\Z)"
    r"|\b(?P<word>True|False|None)\b"
    r"|(?P<comma>,)(?=\s*[}\]])",
    re.DOTALL,
)
_WORDS = {"True": "true", "False": "false", "None": "null"}
_ESCAPES = {character: json.dumps(character)[1:-1] for character in map(chr, (*range(0x20), ord('"')))}
_IN_STRING = re.compile(r"\\(.)|[\"\x00-\x1f]", re.DOTALL)


def _mended(piece: re.Match[str]) -> str:
    if piece["word"]:
        return _WORDS[piece["word"]]
    if piece["comma"]:
        return ""
    content = next(piece[kind] for kind in ("double", "smart", "single", "curved") if piece[kind] is not None)
    return f'"{_IN_STRING.sub(_escaped, content)}"'


def _escaped(found: re.Match[str]) -> str:
    if found[1] is None:
        return _ESCAPES[found[0]]
    return "'" if found[1] == "'" else found[0]


_SQUEEZED_OUT = re.compile(r"[^\w{}:]+")
_BEFORE, _AFTER = re.compile(r"\s*(?:`{3,}\w*\s*)?"), re.compile(r"\s*(?:`{3,}\s*)?")


def _squeezed(text: str) -> str:
    """Letters, digits, braces and colons only: what stays the same however an object is written down."""
    return _SQUEEZED_OUT.sub("", text).casefold()


def _only_a_fence(before: str, after: str) -> bool:
    return bool(_BEFORE.fullmatch(before) and _AFTER.fullmatch(after))
