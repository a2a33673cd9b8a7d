"""What a family of questions is, and what the values of its questions are drawn from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Family:
    """Questions of one structure. The texts are format strings over the values of a slot."""

    name: str
    reference: str
    reasoning: str
    phrasings: tuple[str, ...]
    slots: Sequence[Values]
    """What the phrasings are filled with: one mapping for each possible question."""
    values: bool = True
    """Whether the slots hold values of the database, of which some are kept for held-out questions. Otherwise they
    are names of tables and columns, and held-out questions differ in phrasing only."""


def slots(**options: Iterable[Any]) -> list[Values]:
    """Every combination of the options, one mapping each."""
    return [dict(zip(options, values, strict=True)) for values in product(*options.values())]


BOOKS_AUTHORS = "FROM books JOIN authors ON authors.id = books.author_id"


LOANS_BOOKS = "FROM loans JOIN books ON books.id = loans.book_id"


LOANS_MEMBERS = "FROM loans JOIN members ON members.id = loans.member_id"


def table_columns() -> list[Values]:
    pairs = (("books", "genre"), ("authors", "country"), ("members", "city"), ("books", "copies"))
    return [{"table": table, "column": column} for table, column in pairs]
