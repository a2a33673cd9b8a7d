"""Reading SQL text as far as checking it needs: its tokens and their depth, not its grammar."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
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
FENCE = re.compile(r"```[\w-]*[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL)


class Token(NamedTuple):
    kind: str
    """`text`, `quoted`, `word`, `number` or `sign`."""
    text: str
    """As written; a word in upper case."""
    depth: int
    """How many brackets are open around it."""


def unfenced(answer: str) -> str:
    """The SQL of an answer: what its last code fence holds, where it has one, without closing semicolons."""
    fenced: list[str] = FENCE.findall(answer)
    sql = fenced[-1] if fenced else answer.strip().strip("`")
    return sql.strip().rstrip("; \t\r\n")


def tokens(sql: str) -> Iterator[Token]:
    """The tokens of a query, without spaces and comments."""
    depth = 0
    for match in TOKEN.finditer(sql):
        kind, text = match.lastgroup or "sign", match[0]
        if kind == "skip":
            continue
        depth -= text == ")"
        yield Token(kind, text.upper() if kind == "word" else text, depth)
        depth += text == "("


def is_ordered(sql: str) -> bool:
    """Whether the query itself, not only a subquery or a window of it, has ORDER BY."""
    return any(token.kind == "word" and token.text == "ORDER" and token.depth == 0 for token in tokens(sql))


def expansions(sql: str) -> int:
    """A bound on how often SQLite copies a table of the WITH clause while it prepares the query.

    Each use of such a table is a copy, of those that it uses in turn too: n tables that each use the one before twice
    make 2**n copies, and no time limit of SQLite watches over that.
    """
    parts = list(tokens(sql))
    names = [identifier(token) for token in parts]
    uses = Counter(name for name, after in zip_longest(names, names[1:]) if after != ".")
    return math.prod(max(1, uses[name] - 1) for name in with_tables(parts))


def with_tables(parts: list[Token]) -> set[str]:
    """The names that stand before `AS (`, `AS MATERIALIZED (` or `AS NOT MATERIALIZED (`, with columns or without."""
    found = set()
    for at, token in enumerate(parts):
        following = [after.text for after in parts[at + 1 : at + 4]]
        if at and token.text == "AS" and "(" in following and following[0] in ("(", "NOT", "MATERIALIZED"):
            before = at - 1
            if parts[before].text == ")":
                depth = parts[before].depth
                before = max(i for i in range(before) if parts[i].text == "(" and parts[i].depth == depth) - 1
            found.add(identifier(parts[before]))
    return found


def identifier(token: Token) -> str:
    """The name that a token may stand for: SQLite takes any quotes around one, and any case."""
    if token.kind not in ("quoted", "text"):
        return token.text
    quote = token.text[0]
    return token.text[1:-1].replace(quote * 2, quote).upper()
