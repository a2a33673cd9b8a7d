"""Opening the SQLite file of a run, reading from it, and saying in words what is wrong with it."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from meteor_agents.errors import StoreError

BUSY_S = 60.0
"""How long SQLite waits for a lock that another program holds before it reports that the file is locked."""

SYNCHRONOUS = "FULL"
"""A transaction is on the disk when its commit returns, so a power cut takes back no row that was acted on.
docs/design/engine-costs.md has what this costs."""


def open_for_writing(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode. A new file can be read by its owner only. Raises `sqlite3.Error` and `OSError`."""
    if not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=BUSY_S)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={SYNCHRONOUS}")
    return connection


def open_read_only(path: Path) -> sqlite3.Connection:
    """A connection that cannot write. A store that was closed properly can also be read where nothing may be written.

    Raises `sqlite3.Error`.
    """
    address = path.absolute().as_uri()
    connection = sqlite3.connect(f"{address}?mode=ro", uri=True, check_same_thread=False, timeout=BUSY_S)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master")
        return connection
    except sqlite3.OperationalError:
        connection.close()
        if path.with_name(f"{path.name}-wal").exists():
            raise
    return sqlite3.connect(f"{address}?mode=ro&immutable=1", uri=True, check_same_thread=False)


class Reader:
    """Runs SELECT statements on one connection. Every method raises `StoreError` when the file cannot be read."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._reader = connection
        self._reader_lock = threading.Lock()
        self._path = path

    def read(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows, as committed now. May be called from any thread."""
        try:
            with self._reader_lock:
                return self._reader.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise unreadable(self._path, error) from error

    def each(self, sql: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """The rows one by one, so that memory does not grow with their number."""
        try:
            yield from self._reader.execute(sql, values)
        except sqlite3.Error as error:
            raise unreadable(self._path, error) from error

    def broken(self, what: str, error: Exception) -> StoreError:
        """The error for a row whose content is not what this program writes there."""
        return StoreError(f"{self._path} cannot be read: {what} is broken ({_first_line(error)}); {_DAMAGED}")

    def check_damage(self) -> None:
        """Look at every page of the file. Raises `StoreError` if it is damaged. Takes about a second per gigabyte."""
        found = [str(row[0]) for row in self.read("PRAGMA quick_check(1)")]
        if found != ["ok"]:
            raise StoreError(f"{self._path} cannot be read: {_first_line(found[0])}; {_DAMAGED}")

    def close(self) -> None:
        """Let go of the file."""
        self._reader.close()


def unusable(path: Path, error: sqlite3.Error | OSError) -> StoreError:
    """What to raise when the store cannot be opened for writing."""
    return StoreError(f"{path} cannot be used: {error}; {_advice(error)}")


def unreadable(path: Path, error: sqlite3.Error) -> StoreError:
    """What to raise when a read fails."""
    return StoreError(f"{path} cannot be read: {error}; {_advice(error)}")


_DAMAGED = "the file is damaged: put a copy of it back, or start over with --fresh, which keeps this one aside"
_DISK = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
_ACCESS = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}


def _advice(error: sqlite3.Error | OSError) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the upper bits only tell kinds of one code apart
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "another program holds it open for writing (a database browser?): close that and run the command again"
    if code in _DISK:
        return "make room on that disk and run the same command again; what was committed is still there"
    if code in _ACCESS or isinstance(error, OSError):
        return "see to the folder's permissions and its disk, then run the same command again"
    return _DAMAGED


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
