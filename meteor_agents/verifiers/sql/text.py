"""Reading SQL text as far as checking it needs: its tokens and their depth, not its grammar.

SQLite itself says what a query reads and what is wrong with it. This works on broken SQL as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

TOKEN = re.compile(
    r"""
    (?P<skip> \s+ | --[^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<text> '(?:[^']|'')*'? )
    | (?P<quoted> "(?:[^"]|"")*"? | `[^`]*`? | \[[^\]]*\]? )
    | (?P<word> [^\W\d]\w* )
    | (?P<number> \d+(?:\.\d*)?(?:[eE][-+]?\d+)? )
    | (?P<sign> <= | >= | <> | != | == | . )
    """,
    re.VERBOSE | re.DOTALL,
)


class Token(NamedTuple):
    """A word, value, name or sign of a query."""

    kind: str
    """`text`, `quoted`, `word`, `number` or `sign`."""
    text: str
    """The text as written, but words in upper case."""
    depth: int
    """How many brackets are open around it."""
    start: int
    end: int


def tokens(sql: str) -> Iterator[Token]:
    """The tokens of a query, without spaces and comments."""
    depth = 0
    for match in TOKEN.finditer(sql):
        kind, text = match.lastgroup or "sign", match[0]
        if kind == "skip":
            continue
        depth -= text == ")"
        yield Token(kind, text.upper() if kind == "word" else text, depth, match.start(), match.end())
        depth += text == "("


@dataclass(frozen=True, slots=True)
class Tail:
    """How a query ends: whether it says an order, and which rows it cuts off."""

    ordered: bool
    """Whether the query itself, not only a subquery or a window of it, has ORDER BY."""
    limited: bool
    offset: int | None
    """How many rows are skipped; None where this is not written as a plain number."""
    body: str
    """The query without its LIMIT and OFFSET."""


def tail_of(sql: str) -> Tail:
    """Reads ORDER BY, LIMIT and OFFSET of the query itself."""
    parts = [token for token in tokens(sql) if token.depth == 0]
    words = [token.text if token.kind == "word" else "" for token in parts]
    limit = next((at for at in reversed(range(len(parts))) if words[at] == "LIMIT"), None)
    body = parts if limit is None else parts[:limit]
    return Tail(
        ordered="ORDER" in words,
        limited=limit is not None,
        offset=0 if limit is None else offset_of([token.text for token in parts[limit + 1 :]]),
        body=sql[: body[-1].end] if body else sql,
    )


def offset_of(limit: list[str]) -> int | None:
    """The rows skipped by what stands after LIMIT: `n`, `n OFFSET m` or `m, n`."""
    match limit:
        case [count] if count.isdecimal():
            return 0
        case [count, "OFFSET", skipped] | [skipped, ",", count] if count.isdecimal() and skipped.isdecimal():
            return int(skipped)
        case _:
            return None
