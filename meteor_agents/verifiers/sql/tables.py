"""The tables of the user's database in memory, and which columns name rows of other tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from meteor_agents.verifiers.sql.database import Value


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one table, by number."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]

    def values(self, column: str) -> list[Value]:
        """The values of one column, row by row. Raises `ValueError` if the table has no such column."""
        at = self.columns.index(column)
        return [row[at] for row in self.rows]


class Link(NamedTuple):
    """A column whose values name rows of another table, or of the same one."""

    table: str
    column: str
    parent: str
    parent_column: str


def read_tables(connection: sqlite3.Connection) -> dict[str, Table]:
    """Every table, without the columns that SQLite computes. Raises `sqlite3.Error` if one of them is virtual."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE sql LIKE 'CREATE VIRTUAL%'").fetchone():
        raise sqlite3.NotSupportedError("the tables behind a virtual one cannot be written alone")
    names = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY name"
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
    """Whether the values could be a key: at least two, all different, none NULL."""
    return len(values) > 1 and None not in values and len(set(values)) == len(values)


def primary_key(connection: sqlite3.Connection, table: str) -> str | None:
    """The table's primary key, if it is one column; else None."""
    rows = connection.execute("SELECT name FROM pragma_table_info(?) WHERE pk", (table,)).fetchall()
    return rows[0][0] if len(rows) == 1 else None


def named(name: str) -> str:
    """A name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'
