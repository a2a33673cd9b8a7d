"""Smaller states of the user's data, on which a right query must be right as well (Zhong et al. 2020, arXiv 2010.02840).

Rows are only left out and put into another order. No value is made up, so that the conditions of a query keep their
meaning, and what could put a right query in the wrong is avoided: no row loses the row that it refers to, none that is
referred to loses its last one, and a value that many rows share does not vanish.
"""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import NamedTuple

from meteor_agents.verifiers.sql.database import Value, connect_memory

LARGEST = 64 * 2**20
"""Bytes of a database. Of larger ones no states are made."""
FEWEST, MOST = 0.1, 0.5
"""Which share of its rows a table loses."""


class Link(NamedTuple):
    """A column whose values name rows of another table, or of the same one."""

    table: str
    column: str
    parent: str
    parent_column: str


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one table, by number."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]

    def values(self, column: str) -> list[Value]:
        at = self.columns.index(column)
        return [row[at] for row in self.rows]


def states_of(image: bytes, count: int) -> list[bytes]:
    """Up to `count` smaller databases, the same ones for the same `image`.

    One that breaks a constraint which the user's data keeps is left out; so are all of a database that is empty or
    larger than `LARGEST`.
    """
    if not image or len(image) > LARGEST:
        return []
    with closing(connect_memory(image)) as connection:
        tables = read_tables(connection)
        links = list(links_of(connection, tables))
        broken = connection.execute("PRAGMA foreign_key_check").fetchall()
    if not any(len(table.rows) > 1 for table in tables.values()):
        return []
    states = []
    for number in range(count):
        kept = rows_kept(tables, links, number)
        with suppress(sqlite3.Error):
            states.append(written(image, tables, kept, number, len(broken)))
    return states


def read_tables(connection: sqlite3.Connection) -> dict[str, Table]:
    """Every ordinary table, without the columns that SQLite computes."""
    names = connection.execute(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table'"
        " AND name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY name"
    ).fetchall()
    tables = {}
    for (name,) in names:
        columns = [
            column
            for column, hidden in connection.execute("SELECT name, hidden FROM pragma_table_xinfo(?)", (name,))
            if not hidden
        ]
        rows = connection.execute(f"SELECT {', '.join(map(named, columns))} FROM {named(name)}").fetchall()
        tables[name] = Table(columns, rows)
    return tables


def links_of(connection: sqlite3.Connection, tables: Mapping[str, Table]) -> Iterator[Link]:
    """The foreign keys of one column that are declared, and those that names and values suggest."""
    by_name = {name.upper(): name for name in tables}
    keys = {
        name: [column for column in table.columns if is_key(table.values(column))] for name, table in tables.items()
    }
    declared = set()
    for name, table in tables.items():
        columns = {column.upper(): column for column in table.columns}
        for _, _, parent, column, target, *_ in connection.execute(f"PRAGMA foreign_key_list({named(name)})"):
            parent = by_name.get(parent.upper())
            if parent is None or column.upper() not in columns:
                continue
            known = {key.upper(): key for key in tables[parent].columns}
            target = known.get(target.upper()) if target else primary_key(connection, parent)
            if target:
                declared.add((name, columns[column.upper()]))
                yield Link(name, columns[column.upper()], parent, target)
    candidates = [(parent, key) for parent in tables for key in keys[parent]]
    for name, table in tables.items():
        for column in table.columns:
            found = {value for value in table.values(column) if value is not None}
            if not found or (name, column) in declared:
                continue
            for other, key in candidates:
                is_meant = (other, key) != (name, column) and suggests(column, other, key)
                if is_meant and found <= set(tables[other].values(key)):
                    yield Link(name, column, other, key)


def suggests(column: str, parent: str, key: str) -> bool:
    """Whether a column may name rows of `parent`: `author_id`, `author` or the key's own name, if that is not `id`."""
    column, parent, key = column.lower(), parent.lower(), key.lower()
    if column == key:
        return key != "id"
    stem = column.removesuffix(key).rstrip("_")
    return len(stem) > 1 and (parent.startswith(stem.removesuffix("y")) or parent.endswith((stem, f"{stem}s")))


def is_key(values: Sequence[Value]) -> bool:
    return len(values) > 1 and None not in values and len(set(values)) == len(values)


def primary_key(connection: sqlite3.Connection, table: str) -> str | None:
    rows = connection.execute("SELECT name FROM pragma_table_info(?) WHERE pk", (table,)).fetchall()
    return rows[0][0] if len(rows) == 1 else None


def rows_kept(tables: Mapping[str, Table], links: Sequence[Link], number: int) -> dict[str, list[int]]:
    """Which rows of each table a state has, in the order in which it has them."""
    chance = random.Random(number)
    gone: dict[str, set[int]] = {name: set() for name in tables}
    remains = Remaining(tables, links)
    for place, (name, table) in enumerate(tables.items()):
        # Tables of one size lose different numbers of rows, in each state others.
        share = FEWEST + (MOST - FEWEST) * ((place + number) % len(tables)) / max(1, len(tables) - 1)
        if len(tables) == 1:
            share = FEWEST + (MOST - FEWEST) * chance.random()
        wanted = min(len(table.rows) - 1, max(1, round(share * len(table.rows))))
        for row in chance.sample(range(len(table.rows)), len(table.rows)):
            if len(gone[name]) >= wanted:
                break
            if row not in gone[name]:
                remains.remove(name, row, gone)
    kept = {}
    for name, table in tables.items():
        rows = [row for row in range(len(table.rows)) if row not in gone[name]]
        kept[name] = chance.sample(rows, len(rows))
    return kept


class Remaining:
    """How often each value that must not vanish is still there."""

    def __init__(self, tables: Mapping[str, Table], links: Sequence[Link]) -> None:
        self.tables = tables
        self.links = links
        self.children: dict[Link, dict[Value, list[int]]] = {}
        for link in links:
            by_value = self.children.setdefault(link, {})
            for row, value in enumerate(tables[link.table].values(link.column)):
                by_value.setdefault(value, []).append(row)
        self.counts: dict[tuple[str, str], Counter[Value]] = {}
        linked = {(link.table, link.column) for link in links}
        for name, table in tables.items():
            for column in table.columns:
                values = Counter(table.values(column))
                if (name, column) in linked or 2 * len(values) <= len(table.rows):
                    self.counts[name, column] = values

    def remove(self, name: str, row: int, gone: dict[str, set[int]]) -> None:
        """Leaves out a row and all that refer to it, unless a value that must stay would vanish with them."""
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
                    if child not in gone[link.table] and (link.table, child) not in together:
                        together.add((link.table, child))
                        todo.append((link.table, child))
        lost = Counter(
            (table, column, self._value(table, column, at))
            for table, at in together
            for column in self.tables[table].columns
            if (table, column) in self.counts
        )
        if any(self.counts[key[:2]][key[2]] <= number and key not in excused for key, number in lost.items()):
            return
        for table, column, value in lost.elements():
            self.counts[table, column][value] -= 1
        for table, at in together:
            gone[table].add(at)

    def _value(self, table: str, column: str, row: int) -> Value:
        return self.tables[table].rows[row][self.tables[table].columns.index(column)]


def written(
    image: bytes, tables: Mapping[str, Table], kept: Mapping[str, Sequence[int]], number: int, broken: int
) -> bytes:
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


def named(name: str) -> str:
    """A name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'
