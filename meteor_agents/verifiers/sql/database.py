"""A database in memory that queries can only read, for a limited time and a limited number of rows."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from meteor_agents.errors import SettingsError
from meteor_agents.verifiers.sql.answers import MAX_SQL
from meteor_agents.verifiers.sql.text import tokens

Value = int | float | str | bytes | None
Row = tuple[Value, ...]

FUNCTIONS = """
    abs avg ceil ceiling char coalesce concat concat_ws count cume_dist date datetime dense_rank exp first_value floor
    format glob group_concat hex ifnull iif instr json json_array json_array_length json_each json_extract
    json_group_array json_group_object json_object json_type json_valid julianday lag last_value lead length like ln log
    log10 log2 lower ltrim max min mod nth_value ntile nullif octet_length percent_rank pi pow power printf quote rank
    replace round row_number rtrim sign sqrt strftime string_agg substr substring sum time timediff total trim trunc
    typeof unicode unistr unixepoch upper -> ->>
"""
"""What a query may call. No random ones, and none that reaches outside."""
ALLOWED = frozenset(FUNCTIONS.split())
READING = frozenset((sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE))

LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 10_000_000,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: MAX_SQL,
    sqlite3.SQLITE_LIMIT_COLUMN: 500,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 100,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
}
TOO_MUCH_MEMORY = "The query needs too much memory"


@dataclass(frozen=True, slots=True)
class Result:
    """The rows that a query gave, and what it read."""

    columns: int
    rows: list[Row]
    reads: frozenset[tuple[str, str]]
    """The tables and columns that it read, as pairs; a table of which it needs no column has the column `""`."""

    @property
    def tables(self) -> set[str]:
        """The tables that it read."""
        return {table for table, _ in self.reads}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a query gave nothing, in SQLite's words or ours."""

    reason: str
    exhausted: bool = False
    """Whether it needed too much time or memory."""

    @property
    def unreadable(self) -> bool:
        """Whether SQLite finds no query in the text."""
        return self.reason.startswith(('near "', "incomplete input", "unrecognized token", "The answer must be one"))


class SqlDatabase:
    """A SQLite database in memory, for one thread."""

    def __init__(self, image: bytes, *, max_rows: int, timeout_s: float) -> None:
        """`image` is a database as SQLite writes it into a file."""
        self.max_rows = max_rows
        self.timeout_s = timeout_s
        self._connection = connect_memory(image)
        self.tables = table_columns(self._connection)
        """The columns of every table and view."""
        for pragma in ("query_only = ON", "trusted_schema = OFF"):
            self._connection.execute(f"PRAGMA {pragma}").close()
        for limit, value in LIMITS.items():
            self._connection.setlimit(limit, value)
        self._deadline = 0.0
        self._reads: set[tuple[str, str]] = set()
        self._connection.set_authorizer(self._authorize)
        self._connection.set_progress_handler(lambda: time.monotonic() > self._deadline, 1000)

    def run(
        self, sql: str, *, until: float | None = None, reverse: bool = False, at_most: int | None = None
    ) -> Result | Failure:
        """The rows of one SELECT, or why there are none. Never raises for what the SQL says.

        `until`: when it has to end, in the time of `time.monotonic()`; after `timeout_s` by default.
        `reverse`: visits rows the other way round wherever the query leaves their order open.
        `at_most`: return at most this many rows; otherwise more than `max_rows` are a failure.
        """
        refusal = refused(sql)
        if refusal:
            return Failure(refusal)
        self._reads = set()
        self._deadline = time.monotonic() + self.timeout_s if until is None else until
        if reverse:
            self._set_reverse(True)
        try:
            with closing(self._connection.execute(sql)) as cursor:
                rows = cursor.fetchmany(at_most or self.max_rows + 1)
                columns = len(cursor.description or ())
        except MemoryError:
            return Failure(TOO_MUCH_MEMORY, exhausted=True)
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            if time.monotonic() > self._deadline:
                return Failure(f"The query did not end within {self.timeout_s:g} s", exhausted=True)
            return Failure(reason_of(error))
        finally:
            if reverse:
                self._set_reverse(False)
        if at_most is None and len(rows) > self.max_rows:
            return Failure(f"The query gives more than {self.max_rows} rows")
        return Result(columns, rows, frozenset(self._reads))

    def close(self) -> None:
        """Close the connection and free the data."""
        self._connection.close()

    def _authorize(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        if time.monotonic() > self._deadline:
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_READ and first in self.tables:
            self._reads.add((first, second or ""))
        allowed = action in READING or (action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in ALLOWED)
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

    def _set_reverse(self, on: bool) -> None:
        self._connection.set_authorizer(None)
        self._connection.execute(f"PRAGMA reverse_unordered_selects = {on}").close()
        self._connection.set_authorizer(self._authorize)


def read_image(path: Path) -> bytes:
    """The database of a `.sql` script or a SQLite file, which is not changed. Raises `SettingsError` if neither works."""
    with closing(connect_memory()) as master:
        try:
            load(path, master)
            is_empty = master.execute("PRAGMA page_count").fetchone() == (0,)
            image = bytearray() if is_empty else bytearray(master.serialize())
        except (OSError, UnicodeError, sqlite3.Error, sqlite3.Warning) as error:
            raise SettingsError(
                f"The database {path} cannot be opened: {error}. It must be a .sql script or a SQLite file."
            ) from error
    if image:
        image[18:20] = b"\1\1"  # a database with a write-ahead log, which these bytes tell, does not open in memory
    return bytes(image)


def connect_memory(image: bytes | None = None) -> sqlite3.Connection:
    """A new database in memory; with the content of `image`, if given."""
    connection = sqlite3.connect(":memory:", isolation_level=None, cached_statements=0)
    if image:
        connection.deserialize(image)
    return connection


def load(path: Path, master: sqlite3.Connection) -> None:
    """Fill `master` from an SQLite file or a `.sql` script. Raises `sqlite3.Error`, `OSError` or `UnicodeDecodeError`."""
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
    """Each table or view -> its columns, in the order in which they were created."""
    query = (
        "SELECT m.name, c.name FROM sqlite_master AS m, pragma_table_info(m.name) AS c"
        " WHERE m.type IN ('table', 'view') AND m.name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY m.rowid, c.cid"
    )
    tables: dict[str, tuple[str, ...]] = {}
    for table, column in connection.execute(query):
        tables[table] = (*tables.get(table, ()), column)
    return tables


def refused(sql: str) -> str:
    """Why a query is not even tried; empty if it may be."""
    if len(sql) > MAX_SQL:
        return f"The query is longer than {MAX_SQL} characters"
    first = next(tokens(sql), None)
    if first is None:
        return "The answer holds no SQL"
    if first.text not in ("SELECT", "WITH"):
        return f"The answer must be one SELECT, not {first.text}"
    return ""


def reason_of(error: Exception) -> str:
    """An error of SQLite in words that help to write the query."""
    text = str(error)
    if "one statement" in text:
        return "The answer must be one SELECT, not several statements"
    if text == "not authorized":
        return "The query may only read: nothing else is allowed"
    if "bindings" in text:
        return "The query has a placeholder where a value belongs"
    return text or type(error).__name__
