"""The tables of a run's store.

Triggers keep the totals, in the same transaction as the row that they count. So totals never differ from the rows, and
`meteor status` does not have to read every call.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from meteor_agents.errors import StoreError
from meteor_agents.store.evaluations import EVALUATIONS_OF_VERSION_2

SCHEMA_VERSION = 3
"""Kept by SQLite as `user_version`. A store of version 2 is brought up to date; one of another version is refused."""

_COUNT_CALL = """BEGIN
    INSERT INTO totals VALUES (NEW.role, NEW.stage, 1, coalesce(NEW.input_tokens, 0), coalesce(NEW.output_tokens, 0),
        coalesce(NEW.usd, 0), NEW.usd IS NULL)
    ON CONFLICT (role, stage) DO UPDATE SET calls = calls + 1, input_tokens = input_tokens + excluded.input_tokens,
        output_tokens = output_tokens + excluded.output_tokens, usd = usd + excluded.usd,
        unpriced = unpriced + excluded.unpriced;
END;"""

_COUNT_TRACE = """
    INSERT INTO trace_totals VALUES (NEW.stage, NEW.recipe, NEW.outcome, NEW.tries, 1)
    ON CONFLICT (stage, recipe, outcome, tries) DO UPDATE SET traces = traces + 1;
"""

SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE calls (
    key TEXT NOT NULL, weights TEXT NOT NULL, max_tokens INTEGER NOT NULL, role TEXT NOT NULL, stage TEXT NOT NULL,
    question_id TEXT NOT NULL, tries INTEGER NOT NULL, request TEXT NOT NULL, reply TEXT NOT NULL,
    finish_reason TEXT NOT NULL, model TEXT NOT NULL, input_tokens INTEGER, output_tokens INTEGER, usd REAL,
    seconds REAL NOT NULL, created REAL NOT NULL);
CREATE UNIQUE INDEX calls_by_key ON calls (key, weights, max_tokens);
CREATE TABLE reasoning (
    key TEXT NOT NULL, weights TEXT NOT NULL, max_tokens INTEGER NOT NULL, text TEXT NOT NULL,
    PRIMARY KEY (key, weights, max_tokens)) WITHOUT ROWID;
CREATE TABLE totals (
    role TEXT NOT NULL, stage TEXT NOT NULL, calls INTEGER NOT NULL, input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL, usd REAL NOT NULL, unpriced INTEGER NOT NULL,
    PRIMARY KEY (role, stage)) WITHOUT ROWID;
CREATE TRIGGER call_made AFTER INSERT ON calls {_COUNT_CALL}
CREATE TRIGGER call_made_again AFTER UPDATE ON calls {_COUNT_CALL}
CREATE TABLE traces (
    position INTEGER PRIMARY KEY, stage TEXT NOT NULL, recipe TEXT NOT NULL, question_id TEXT NOT NULL,
    outcome TEXT NOT NULL, tries INTEGER NOT NULL, question TEXT NOT NULL, messages TEXT NOT NULL, error TEXT,
    created REAL NOT NULL);
CREATE UNIQUE INDEX traces_by_question ON traces (stage, recipe, question_id);
CREATE INDEX traces_in_order ON traces (stage, recipe, position, question_id, outcome);
CREATE TABLE trace_totals (
    stage TEXT NOT NULL, recipe TEXT NOT NULL, outcome TEXT NOT NULL, tries INTEGER NOT NULL, traces INTEGER NOT NULL,
    PRIMARY KEY (stage, recipe, outcome, tries)) WITHOUT ROWID;
CREATE TRIGGER trace_finished AFTER INSERT ON traces BEGIN {_COUNT_TRACE} END;
CREATE TRIGGER trace_replaced AFTER UPDATE ON traces BEGIN
    UPDATE trace_totals SET traces = traces - 1
    WHERE stage = OLD.stage AND recipe = OLD.recipe AND outcome = OLD.outcome AND tries = OLD.tries;
    {_COUNT_TRACE}
END;
CREATE TABLE rounds (
    stage TEXT NOT NULL, recipe TEXT NOT NULL, round INTEGER NOT NULL, traces TEXT NOT NULL, data_hash TEXT NOT NULL,
    start TEXT NOT NULL, checkpoint TEXT NOT NULL, promoted INTEGER NOT NULL, reason TEXT NOT NULL, report TEXT NOT NULL,
    created REAL NOT NULL, PRIMARY KEY (stage, recipe, round)) WITHOUT ROWID;
CREATE TABLE stages (
    stage TEXT NOT NULL, recipe TEXT NOT NULL, state TEXT NOT NULL, questions INTEGER NOT NULL, checkpoint TEXT NOT NULL,
    seconds REAL NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (stage, recipe)) WITHOUT ROWID;
CREATE TABLE scores (
    checkpoint TEXT NOT NULL, heldout TEXT NOT NULL, recipe TEXT NOT NULL, question_id TEXT NOT NULL,
    result TEXT NOT NULL, PRIMARY KEY (checkpoint, heldout, recipe, question_id)) WITHOUT ROWID;
CREATE TABLE evaluations (
    checkpoint TEXT NOT NULL, heldout TEXT NOT NULL, recipe TEXT NOT NULL, kind TEXT NOT NULL, against TEXT NOT NULL,
    label TEXT NOT NULL, metrics TEXT NOT NULL, position INTEGER NOT NULL,
    PRIMARY KEY (checkpoint, heldout, recipe, kind, against)) WITHOUT ROWID;
CREATE TABLE counters (
    role TEXT NOT NULL, name TEXT NOT NULL, value INTEGER NOT NULL, PRIMARY KEY (role, name)) WITHOUT ROWID;
"""


def create_tables(connection: sqlite3.Connection, path: Path) -> None:
    """Create the tables in an empty file; bring a store of version 2 up to date, all or nothing.

    Raises `StoreError` for a store of another version, and `sqlite3.Error` where the file cannot be used.
    """
    version = version_of(connection)
    if version == 0 and is_empty(connection):
        connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    elif version == 2:
        connection.executescript(_FROM_VERSION_2)
    else:
        check_version(version, path)


_FROM_VERSION_2 = f"""
BEGIN IMMEDIATE;
ALTER TABLE evaluations RENAME TO old_evaluations;
{SCHEMA[SCHEMA.index("CREATE TABLE evaluations") : SCHEMA.index("CREATE TABLE counters")]}
INSERT INTO evaluations {EVALUATIONS_OF_VERSION_2.format(table="old_evaluations")};
DROP TABLE old_evaluations;
PRAGMA user_version = 3;
COMMIT;
"""


def show_as_current(connection: sqlite3.Connection, path: Path) -> None:
    """Let a connection that only reads see a store of version 2 as one of this version.

    Raises `StoreError` for a store of another version.
    """
    version = version_of(connection)
    if version == 2:
        connection.execute(f"CREATE TEMP VIEW evaluations AS {EVALUATIONS_OF_VERSION_2.format(table='evaluations')}")
    else:
        check_version(version, path)


def is_empty(connection: sqlite3.Connection) -> bool:
    """Whether the file holds no table at all: a new store, or what is left of one whose write-ahead log was lost."""
    return not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


def version_of(connection: sqlite3.Connection) -> int:
    """The version of the store; 0 for an empty file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def check_version(version: int, path: Path) -> None:
    """Raises `StoreError` unless the store has this version."""
    if version == 0:
        raise StoreError(f"{path} holds no run: it is empty, or was copied from a run that went on without its run.db-wal")
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"{path} has store version {version}, this meteor reads version {SCHEMA_VERSION}; "
            "use the meteor that wrote it, start over with --fresh (which keeps it aside), or use another --run-dir"
        )
