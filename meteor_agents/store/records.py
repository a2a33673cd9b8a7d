"""The reading end of a run's store: calls, traces, stages, rounds, scores."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from meteor_agents.errors import StoreError
from meteor_agents.store.call_records import CallRecords
from meteor_agents.store.database import open_read_only, unreadable
from meteor_agents.store.schema import SCHEMA, show_as_current
from meteor_agents.store.trace_records import TraceRecords


class Records(CallRecords, TraceRecords):
    """Everything that can be read from a run's store. A method raises `StoreError` when the file cannot be read.

    `CallRecords` answers about calls, `TraceRecords` about conversations and `StageRecords` about stages, rounds and
    evaluations.
    """

    @classmethod
    def none(cls) -> Records:
        """The records of a run that has not begun."""
        connection = sqlite3.connect(":memory:", check_same_thread=False)
        connection.executescript(SCHEMA)
        return cls(connection, Path(":memory:"))


def open_for_reading(path: Path, *, whole: bool = False) -> Records:
    """The records at `path`, for commands that only look; the run may be going on meanwhile.

    With `whole`, every page of the file is checked for damage first. Raises `StoreError` where there is no store, where it
    is damaged, and where another version wrote it.
    """
    if not path.exists():
        raise StoreError(f"{path} does not exist: nothing has been run there yet")
    connection = None
    try:
        connection = open_read_only(path)
        show_as_current(connection, path)
        records = Records(connection, path)
        if whole:
            records.check_damage()
        return records
    except (sqlite3.Error, StoreError) as error:
        if connection is not None:
            connection.close()
        if isinstance(error, StoreError):
            raise
        raise unreadable(path, error) from error
