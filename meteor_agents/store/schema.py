"""The tables of a run's store, and how a store of an older version becomes one of this version.

Totals are kept by triggers, in the transaction of the row that they count: they cannot differ from it, and `status` need
not read every call.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path

from meteor_agents.calls.keys import call_key
from meteor_agents.errors import StoreError
from meteor_agents.models import SamplingParams
from meteor_agents.store.evaluations import EVALUATIONS_OF_VERSION_2

SCHEMA_VERSION = 3

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


def create_or_migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Give an empty file its tables, and an older store those of this version. Raises `StoreError`, `sqlite3.Error`."""
    version = version_of(connection)
    if version == 0 and not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    elif version in (1, 2):
        if version == 1:
            _from_version_1(connection)
        _from_version_2(connection)
    else:
        check_version(version, path)


def version_of(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def show_as_current(connection: sqlite3.Connection, path: Path) -> None:
    """Let a connection that may only read see a store of version 2 as one of this version. Raises `StoreError`."""
    version = version_of(connection)
    if version == 2:
        connection.execute(f"CREATE TEMP VIEW evaluations AS {EVALUATIONS_OF_VERSION_2.format(table='evaluations')}")
    else:
        check_version(version, path)


def check_version(version: int, path: Path) -> None:
    """Raises `StoreError` unless the store is of this version."""
    if version == SCHEMA_VERSION:
        return
    advice = (
        "the next stage command on this run (for example `meteor run`) brings it up to date"
        if version == 1
        else "use the meteor that wrote it, or another --run-dir"
    )
    raise StoreError(f"{path} has store version {version}, this meteor reads version {SCHEMA_VERSION}; {advice}")


# version 2: the kind of an evaluation was a suffix of its held-out set's name


def _from_version_2(connection: sqlite3.Connection) -> None:
    """All or nothing."""
    create = next(statement for statement in _statements(SCHEMA) if "TABLE evaluations" in statement)
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ALTER TABLE evaluations RENAME TO old_evaluations")
        connection.execute(create)
        connection.execute(f"INSERT INTO evaluations {EVALUATIONS_OF_VERSION_2.format(table='old_evaluations')}")
        connection.execute("DROP TABLE old_evaluations")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


# version 1: the call's key held max_tokens, and nothing was totalled


def _from_version_1(connection: sqlite3.Connection) -> None:
    """All or nothing. A reply whose new key cannot be told keeps its old one: it is not found, and still counted."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        for table in ("calls", "traces"):
            connection.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
        connection.execute("DROP INDEX traces_in_order")
        kept = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for statement in _statements(SCHEMA):
            name = statement.split()[2]
            if not (statement.startswith("CREATE TABLE") and name in kept):
                connection.execute(statement)
        columns = (
            "role, stage, question_id, tries, request, reply, finish_reason, model, input_tokens, output_tokens, usd"
        )
        old_calls = connection.execute(
            f"SELECT key, weights, {columns}, seconds, created FROM old_calls ORDER BY created"
        )
        connection.executemany(f"INSERT INTO calls VALUES ({','.join('?' * 16)})", map(_call_of_version_1, old_calls))
        connection.execute(
            "INSERT INTO traces SELECT position, stage, recipe, question_id, outcome, tries, question, messages, error,"
            " created FROM old_traces ORDER BY position"
        )
        for table in ("calls", "traces"):
            connection.execute(f"DROP TABLE old_{table}")
        connection.execute("PRAGMA user_version = 2")


def _statements(script: str) -> list[str]:
    """The script cut where `sqlite3` finds a statement complete; a trigger's body holds semicolons of its own."""
    found, begun = [], ""
    for line in script.splitlines():
        begun += line + "\n"
        if sqlite3.complete_statement(begun):
            found.append(begun.strip())
            begun = ""
    return found


def _call_of_version_1(row: tuple[object, ...]) -> tuple[object, ...]:
    key, weights, role, stage, question_id, tries, request, *reply = row
    asked = json.loads(str(request))
    sampling = SamplingParams.model_validate(asked["sampling"])
    messages = [(message["role"], message["content"]) for message in asked["messages"]]
    for identity in (str(weights), str(reply[2])):
        for again in (0, 1):
            if key == _key_of_version_1(role, identity, asked, tries, again):
                key = call_key(str(role), identity, messages, sampling, int(str(tries)), again)
    return (key, weights, sampling.max_tokens, role, stage, question_id, tries, request, *reply)


def _key_of_version_1(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
