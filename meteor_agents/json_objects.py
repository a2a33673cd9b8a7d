"""Where JSON objects stand in a text, without reading them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_STARTS = re.compile(r"\{\s*(?:\"[^\"\n]{0,200}\"|'[^'\n]{0,200}'|[“”][^“”\n]{0,200}[“”]|‘[^‘’\n]{0,200}’)\s*:")
_PARTS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[{}]', re.DOTALL)
_UNCLOSED = 2
"""After this many objects that never close, no further one is tried: each costs a search to the end of the text."""
_DEEPEST = 50


class ObjectSpan(NamedTuple):
    """`text[start:end]` looks like a JSON object."""

    start: int
    end: int
    closed: bool
    """False: no brace closes it, so that `end` is the end of the text."""


def object_spans(text: str) -> Iterator[ObjectSpan]:
    """What looks like a JSON object and stands in no other one, in order: a brace, a quoted key and a colon, up to the brace
    that closes it. Braces in double quotes do not count. Takes time in proportion to the text's length.

    >>> [text[span.start:span.end] for text in ['Set {1}: {"a": {"b": "}"}}'] for span in object_spans(text)]
    ['{"a": {"b": "}"}}']
    """
    unclosed, end = 0, 0
    for found in _STARTS.finditer(text):
        if found.start() < end or unclosed >= _UNCLOSED:
            continue
        closing = _closing(text, found.start())
        if closing is None:
            unclosed += 1
            yield ObjectSpan(found.start(), len(text), closed=False)
        else:
            end = closing
            yield ObjectSpan(found.start(), end, closed=True)


def _closing(text: str, start: int) -> int | None:
    """The end of the object that begins at `start`."""
    depth = 0
    for part in _PARTS.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(part[0], 0)
        if depth == 0:
            return part.end()
        if depth > _DEEPEST:
            return None
    return None
