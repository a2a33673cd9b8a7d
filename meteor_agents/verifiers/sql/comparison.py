"""Whether the rows of a query are the expected ones: the same values, in the same order where the reference fixes one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from meteor_agents.verifiers.sql.database import Failure, Result, Row, SqlDatabase, Value
from meteor_agents.verifiers.sql.text import Tail, tail_of
from meteor_agents.verifiers.verdicts import quoted

EXACT_BELOW = 2.0**53
"""Whole numbers are compared exactly below this, also as floats: a float holds each of them."""
RELATIVE = 1e-12
"""How far other floats may be apart: what adding up in another order changes."""
ZERO = 1e-12
"""A number up to this size equals 0, since sums that cancel leave a remainder."""
RANKED_ROWS = 10_000
"""Rows that are looked at to find which of them ORDER BY leaves in any order."""


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that may come in any order."""

    rows: Sequence[Row]
    taken: int
    """How many of them the query gives, any of them; fewer than all where LIMIT or OFFSET cuts through the group."""

    @property
    def uniform(self) -> bool:
        """Whether all rows of the group are equal."""
        return all(row == self.rows[0] for row in self.rows)


@dataclass(frozen=True, slots=True)
class Expected:
    """The rows that a query gives, and those that it might give as well."""

    result: Result
    groups: Sequence[Group]
    ordered: bool
    """Whether the query says an order."""

    def settled(self, *, order: bool) -> bool:
        """Whether the query decides which rows it gives, and with `order` their order too."""
        return all(group.uniform or (group.taken == len(group.rows) and not order) for group in self.groups)


def expected_of(database: SqlDatabase, sql: str, until: float | None = None) -> Expected | Failure:
    """Runs a query, and once or twice more where it has ORDER BY or LIMIT, to find what it leaves open."""
    result = database.run(sql, until=until)
    if isinstance(result, Failure):
        return result
    tail = tail_of(sql)
    groups = [Group(result.rows, len(result.rows))]
    if tail.ordered or tail.limited:
        open_groups = open_groups_of(database, tail, result, until)
        strict = [Group([row], 1) for row in result.rows] if tail.ordered else groups
        groups = open_groups if open_groups and fits(result.rows, open_groups) else strict
    return Expected(result, groups, tail.ordered)


def open_groups_of(database: SqlDatabase, tail: Tail, result: Result, until: float | None) -> list[Group] | None:
    """The groups of rows between which the query decides; None if they cannot be found."""
    if tail.offset is None:
        return None
    numbers = range(1, result.columns + 1)
    if not tail.ordered:
        whole = database.run(tail.body, until=until, at_most=RANKED_ROWS)
        return None if isinstance(whole, Failure) else [Group(whole.rows, len(result.rows))]
    # Rows with equal keys are the ones that change places when the columns break the ties, once up and once down.
    up = database.run(f"{tail.body}, {', '.join(map(str, numbers))}", until=until, at_most=RANKED_ROWS)
    down = database.run(
        f"{tail.body}, {', '.join(f'{number} DESC' for number in numbers)}", until=until, at_most=RANKED_ROWS
    )
    if isinstance(up, Failure) or isinstance(down, Failure):
        return None
    return list(windowed(tied(up.rows, down.rows), tail.offset, len(result.rows)))


def tied(up: Sequence[Row], down: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Splits rows into groups of equal keys: a group ends wherever both orders have given the same rows so far."""
    balance: Counter[Row] = Counter()
    start = 0
    for end, (rising, falling) in enumerate(zip(up, down, strict=False), 1):
        for row, change in ((rising, 1), (falling, -1)):
            balance[row] += change
            if not balance[row]:
                del balance[row]
        if not balance:
            yield up[start:end]
            start = end
    if start < len(up):  # cut at the limit: each order shows other rows of this group
        yield [*up[start:], *(Counter(down[start:]) - Counter(up[start:])).elements()]


def windowed(groups: Iterator[Sequence[Row]], offset: int, length: int) -> Iterator[Group]:
    """The groups of which the rows from `offset` on are taken, until there are `length` of them."""
    skip, left = offset, length
    for rows in groups:
        if left and skip < len(rows):
            taken = min(len(rows) - skip, left)
            left -= taken
            yield Group(rows, taken)
        skip = max(0, skip - len(rows))


def difference(given: Result, expected: Expected) -> str:
    """What is wrong with the rows given, without telling the right ones; empty if nothing is."""
    wanted = expected.result
    if given.columns != wanted.columns:
        return f"{counted(given.columns, 'column')} where {wanted.columns} {was(wanted.columns)} expected."
    if len(given.rows) != len(wanted.rows):
        rows = len(wanted.rows)
        return f"{counted(len(given.rows), 'row')} where {rows} {was(rows)} expected.{first_row(given)}"
    if given.rows == wanted.rows or fits(given.rows, expected.groups):
        return ""
    if expected.ordered and among(given.rows, [row for group in expected.groups for row in group.rows]):
        return f"The rows are right but not in the expected order.{first_row(given)}"
    return f"The number of rows is right, but not what they hold.{first_row(given)}"


def fits(given: Sequence[Row], groups: Sequence[Group]) -> bool:
    """Whether the rows are as many of each group as it says, group by group."""
    at = 0
    for group in groups:
        if not among(given[at : at + group.taken], group.rows):
            return False
        at += group.taken
    return at == len(given)


def among(given: Sequence[Row], rows: Sequence[Row]) -> bool:
    """Whether each row given is one of `rows`, as often at most. Equal ones are paired off first, then close ones."""
    if len(given) == 1 == len(rows):
        return same_row(given[0], rows[0])
    wanted, has = Counter(rows), Counter(given)
    left = list((wanted - has).elements())
    for row in (has - wanted).elements():
        match = next((i for i, other in enumerate(left) if same_row(row, other)), None)
        if match is None:
            return False
        del left[match]
    return True


def same_row(given: Row, expected: Row) -> bool:
    """Whether two rows have the same number of values, and the same values."""
    return len(given) == len(expected) and all(map(same_value, given, expected))


def same_value(given: Value, expected: Value) -> bool:
    """Whether two values are the same: of one type, where whole numbers are one type with floats."""
    if given == expected:
        return True
    if not isinstance(given, int | float) or not isinstance(expected, int | float):
        return False
    if is_exact(given) and is_exact(expected) and given and expected:
        return False
    if not given or not expected:
        return abs(given - expected) <= ZERO
    return math.isclose(given, expected, rel_tol=RELATIVE)


def is_exact(value: int | float) -> bool:
    """Whether the number is a whole number that a float can hold exactly."""
    return isinstance(value, int) or (abs(value) < EXACT_BELOW and value.is_integer())


def viewed(value: Value) -> Value:
    """Values that come to the same become one: floats are cut to 11 digits, and whole ones become integers."""
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    return int(value) if value.is_integer() else float(f"{value:.11g}")


def first_row(result: Result) -> str:
    """A sentence that quotes the first row of the result, shortened; empty if there are no rows."""
    if not result.rows:
        return ""
    values = ", ".join("NULL" if value is None else str(value)[:100] for value in result.rows[0][:5])
    return f" The first row it gives is {quoted(values, 40)}."


def counted(number: int, noun: str) -> str:
    """The number with its noun in the singular or plural: `1 row`, `2 rows`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def was(number: int) -> str:
    """`was` for one, `were` for any other number."""
    return "was" if number == 1 else "were"
