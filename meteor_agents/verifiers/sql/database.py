"""A database that answers can only read, for a limited time and a limited number of rows."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from meteor_agents.errors import SettingsError
from meteor_agents.verifiers.sql_text import expansions, tokens

Value = int | float | str | bytes | None

FUNCTIONS = """
    abs avg ceil ceiling char coalesce concat concat_ws count cume_dist date datetime dense_rank exp first_value floor
    format glob group_concat hex ifnull iif instr json json_array json_array_length json_each json_extract
    json_group_array json_group_object json_object json_type json_valid julianday lag last_value lead length like ln log
    log10 log2 lower ltrim max min mod nth_value ntile nullif octet_length percent_rank pi pow power printf quote rank
    replace round row_number rtrim sign sqrt strftime string_agg substr substring sum time timediff total trim trunc
    typeof unicode unistr unixepoch upper -> ->>
"""
"""What a query may call. No random ones, none that fills memory, and none that reaches outside."""

LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 10_000_000,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 20_000,
    sqlite3.SQLITE_LIMIT_COLUMN: 500,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 100,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
}
"""SQLite's own limits, low enough that no single value or expression outlasts the time limit by much."""
MAX_EXPANSIONS = 1000


@dataclass(frozen=True, slots=True)
class Result:
    """What a query gave."""

    columns: int
    rows: list[tuple[Value, ...]]
    reads: frozenset[tuple[str, str]]
    """The tables and columns that it read, as pairs; a table of which it needs no column has the column `""`."""

    @property
    def tables(self) -> set[str]:
        return {table for table, _ in self.reads}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a query gave nothing, in SQLite's words or ours."""

    reason: str


class SqlDatabase:
    """A SQLite database in memory. Each query runs on a copy that no other query uses at that time."""

    def __init__(self, master: sqlite3.Connection, *, max_rows: int, timeout_s: float) -> None:
        self.max_rows = max_rows
        self.timeout_s = timeout_s
        self.tables = table_columns(master)
        """The columns of every table and view."""
        self._master = master
        self._idle: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def open(cls, path: Path, *, max_rows: int, timeout_s: float) -> SqlDatabase:
        """Reads a `.sql` script or a SQLite file, which is not changed. Raises `SettingsError` if neither works."""
        master = connect_memory()
        try:
            load(path, master)
            return cls(master, max_rows=max_rows, timeout_s=timeout_s)
        except (OSError, UnicodeError, sqlite3.Error, sqlite3.Warning) as error:
            master.close()
            raise SettingsError(
                f"The database {path} cannot be opened: {error}. It must be a .sql script or a SQLite file."
            ) from error

    def run(self, sql: str) -> Result | Failure:
        """The rows of one SELECT, or why there are none. Never raises for what the SQL says."""
        refusal = refused(sql)
        if refusal:
            return Failure(refusal)
        with self._borrowed() as connection:
            return self._read(connection, sql)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for connection in [*self._idle, self._master]:
                connection.close()
            self._idle.clear()

    def _read(self, connection: sqlite3.Connection, sql: str) -> Result | Failure:
        reads: set[tuple[str, str]] = set()
        deadline = time.monotonic() + self.timeout_s

        def authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
            if time.monotonic() > deadline:
                return sqlite3.SQLITE_DENY
            if action == sqlite3.SQLITE_READ and first in self.tables:
                reads.add((first, second or ""))
            return sqlite3.SQLITE_OK if is_reading(action, second) else sqlite3.SQLITE_DENY

        connection.set_authorizer(authorize)
        connection.set_progress_handler(lambda: time.monotonic() > deadline, 1000)
        try:
            with closing(connection.execute(sql)) as cursor:
                rows = cursor.fetchmany(self.max_rows + 1)
                columns = len(cursor.description or ())
        except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError) as error:
            if time.monotonic() > deadline:
                return Failure(f"The query did not end within {self.timeout_s:g} s")
            return Failure(reason_of(error))
        if len(rows) > self.max_rows:
            return Failure(f"The query gives more than {self.max_rows} rows")
        return Result(columns, rows, frozenset(reads))

    @contextmanager
    def _borrowed(self) -> Iterator[sqlite3.Connection]:
        """A copy of the database; there are as many as were ever in use at once."""
        with self._lock:
            connection = self._idle.pop() if self._idle else guarded_copy(self._master)
        try:
            yield connection
        finally:
            with self._lock:
                if self._closed:
                    connection.close()
                else:
                    self._idle.append(connection)


def connect_memory() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None, cached_statements=0)


def load(path: Path, master: sqlite3.Connection) -> None:
    with path.open("rb") as file:
        is_sqlite = file.read(16) == b"SQLite format 3\0"
    if is_sqlite:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as source:
            source.backup(master)
    elif path.suffix == ".sql":
        master.executescript(path.read_text(encoding="utf-8"))
    else:
        raise sqlite3.DatabaseError("it is neither")


def table_columns(connection: sqlite3.Connection) -> dict[str, tuple[str, ...]]:
    query = (
        "SELECT m.name, c.name FROM sqlite_master AS m, pragma_table_info(m.name) AS c"
        " WHERE m.type IN ('table', 'view') AND m.name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY m.rowid, c.cid"
    )
    tables: dict[str, tuple[str, ...]] = {}
    for table, column in connection.execute(query):
        tables[table] = (*tables.get(table, ()), column)
    return tables


def guarded_copy(master: sqlite3.Connection) -> sqlite3.Connection:
    connection = connect_memory()
    master.backup(connection)
    for pragma in ("query_only = ON", "trusted_schema = OFF"):
        connection.execute(f"PRAGMA {pragma}").close()
    for limit, value in LIMITS.items():
        connection.setlimit(limit, value)
    return connection


def refused(sql: str) -> str:
    """Why a query is not even tried; empty if it may be."""
    first = next(tokens(sql), None)
    if first is None:
        return "The answer holds no SQL"
    if first.text not in ("SELECT", "WITH"):
        return f"The answer must be one SELECT, not {first.text}"
    if expansions(sql) > MAX_EXPANSIONS:
        return "The query uses the tables of its WITH clause too many times"
    return ""


def is_reading(action: int, function: str | None) -> bool:
    if action == sqlite3.SQLITE_FUNCTION:
        return (function or "").lower() in FUNCTIONS.split()
    return action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE)


def reason_of(error: Exception) -> str:
    text = str(error)
    if "one statement" in text:
        return "The answer must be one SELECT, not several statements"
    if text == "not authorized":
        return "The query may only read: nothing else is allowed"
    if "bindings" in text:
        return "The query has a placeholder where a value belongs"
    return text or type(error).__name__
