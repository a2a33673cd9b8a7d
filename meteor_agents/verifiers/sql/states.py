"""Smaller states of the user's data, on which a right query must be right as well (Zhong et al. 2020, arXiv 2010.02840).

Rows are only left out and put into another order. No value is made up, so that the conditions of a query keep their
meaning, and what could put a right query in the wrong is avoided: no row loses the row that it refers to, none that is
referred to loses its last one, and a value that many rows share does not vanish.
"""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any

from meteor_agents.verifiers.sql.database import Value, connect_memory
from meteor_agents.verifiers.sql.tables import Link, Table, links_of, named, read_tables

LARGEST = 16 * 2**20
"""Bytes of a database. Of larger ones no states are made."""
FEWEST, MOST = 0.1, 0.5
"""Which share of its rows a table loses."""


def states_of(image: bytes, count: int) -> list[bytes]:
    """Up to `count` smaller databases, the same ones for the same `image`.

    One that breaks a constraint which the user's data keeps is left out; so are all of a database that is empty or
    larger than `LARGEST`.
    """
    if not image or len(image) > LARGEST:
        return []
    try:
        with closing(connect_memory(image)) as connection:
            tables = read_tables(connection)
            links = list(links_of(connection, tables))
            broken = len(connection.execute("PRAGMA foreign_key_check").fetchall())
    except sqlite3.Error:  # text that is not UTF-8, or foreign keys to nothing: queries may work all the same
        return []
    if not any(len(table.rows) > 1 for table in tables.values()):
        return []
    states = []
    for number in range(count):
        kept = rows_kept(tables, links, number)
        with suppress(sqlite3.Error):
            states.append(written(image, tables, kept, broken))
    return states


def rows_kept(tables: Mapping[str, Table], links: Sequence[Link], number: int) -> dict[str, list[int]]:
    """Which rows of each table a state has, in the order in which it has them.

    Of every three states one leaves out rows at random, one those with the greatest values, one those with the least.
    """
    chance = random.Random(number)
    remains = Remaining(tables, links)
    for place, (name, table) in enumerate(tables.items()):
        rows = chance.sample(range(len(table.rows)), len(table.rows))
        extremes = [[], extreme_rows(table, max), extreme_rows(table, min)][number % 3]
        for row in extremes:
            if len(remains.gone[name]) < len(rows) // 2:
                remains.remove(name, row, with_parents=True)
        # Tables of one size lose different numbers of rows, in each state others.
        place = (place + number) % len(tables) if len(tables) > 1 else number % 3
        share = FEWEST + (MOST - FEWEST) * place / max(2, len(tables) - 1)
        wanted = min(len(rows) - 1, max(1, round(share * len(rows))))
        for row in rows:
            if len(remains.gone[name]) < wanted:
                remains.remove(name, row)
    kept = {}
    for name, table in tables.items():
        left = [row for row in range(len(table.rows)) if row not in remains.gone[name]]
        kept[name] = chance.sample(left, len(left))
    return kept


def extreme_rows(table: Table, extreme: Callable[..., Any]) -> list[int]:
    """The rows with the greatest, or least, value of each column that holds numbers or texts alone."""
    found = []
    for at in range(len(table.columns)):
        filled = [(row[at], number) for number, row in enumerate(table.rows) if row[at] is not None]
        kinds = {"number" if isinstance(value, int | float) else type(value).__name__ for value, _ in filled}
        if len(kinds) == 1:
            found.append(extreme(filled)[1])
    return list(dict.fromkeys(found))


class Remaining:
    """The rows that are left, and how often they hold each value that must not vanish."""

    def __init__(self, tables: Mapping[str, Table], links: Sequence[Link]) -> None:
        self.tables = tables
        self.links = links
        self.gone: dict[str, set[int]] = {name: set() for name in tables}
        """The rows that are left out."""
        self.children = {link: by_value(tables[link.table].values(link.column)) for link in links}
        self.parents = {link: by_value(tables[link.parent].values(link.parent_column)) for link in links}
        self.counts: dict[tuple[str, str], Counter[Value]] = {}
        linked = {(link.table, link.column) for link in links}
        for name, table in tables.items():
            for column in table.columns:
                values = Counter(table.values(column))
                if (name, column) in linked or 2 * len(values) <= len(table.rows):
                    self.counts[name, column] = values

    def remove(self, name: str, row: int, *, with_parents: bool = False) -> None:
        """Leaves out a row and all that refer to it, unless a value that must stay would vanish with them.

        `with_parents`: then leaves out what the row refers to instead, with all that refers to that.
        """
        if row in self.gone[name] or self._remove(name, row) or not with_parents:
            return
        for link in self.links:
            if link.table == name:
                value = self._value(name, link.column, row)
                for parent in self.parents[link].get(value, []):
                    if parent not in self.gone[link.parent] and self._remove(link.parent, parent):
                        return

    def _remove(self, name: str, row: int) -> bool:
        together = {(name, row)}
        todo = [(name, row)]
        excused: set[tuple[str, str, Value]] = set()
        while todo:
            table, at = todo.pop()
            for link in self.links:
                if link.parent != table:
                    continue
                value = self._value(table, link.parent_column, at)
                excused.add((link.table, link.column, value))
                for child in self.children[link].get(value, []):
                    if child not in self.gone[link.table] and (link.table, child) not in together:
                        together.add((link.table, child))
                        todo.append((link.table, child))
        lost = Counter(
            (table, column, self._value(table, column, at))
            for table, at in together
            for column in self.tables[table].columns
            if (table, column) in self.counts
        )
        if any(self.counts[key[:2]][key[2]] <= number and key not in excused for key, number in lost.items()):
            return False
        for table, column, value in lost.elements():
            self.counts[table, column][value] -= 1
        for table, at in together:
            self.gone[table].add(at)
        return True

    def _value(self, table: str, column: str, row: int) -> Value:
        return self.tables[table].rows[row][self.tables[table].columns.index(column)]


def by_value(values: Sequence[Value]) -> dict[Value, list[int]]:
    """The numbers of the rows with each value but NULL."""
    found: dict[Value, list[int]] = {}
    for row, value in enumerate(values):
        if value is not None:
            found.setdefault(value, []).append(row)
    return found


def written(image: bytes, tables: Mapping[str, Table], kept: Mapping[str, Sequence[int]], broken: int) -> bytes:
    """The database with those rows alone. Raises `sqlite3.Error` if a constraint forbids it."""
    with closing(connect_memory(image)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {named(trigger)}")
        connection.execute("BEGIN")
        for name, table in tables.items():
            connection.execute(f"DELETE FROM {named(name)}")
            holes = ", ".join("?" * len(table.columns))
            columns = ", ".join(map(named, table.columns))
            connection.executemany(
                f"INSERT INTO {named(name)}({columns}) VALUES ({holes})", [table.rows[row] for row in kept[name]]
            )
        connection.execute("COMMIT")
        if len(connection.execute("PRAGMA foreign_key_check").fetchall()) > broken:
            raise sqlite3.IntegrityError("a row refers to one that is left out")
        return connection.serialize()
