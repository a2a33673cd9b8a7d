"""One SQLite file a run: calls, traces, rounds, scores, stages. What was received is committed before it is acted on.

Writes go through one thread that commits whatever has queued up as one transaction (group commit); `await` returns once
the row is on disk. Reads use a connection of their own, in a thread.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import StoreError
from .messages import Question
from .models import Completion, FinishReason, Usage
from .traces import Outcome, Trace

SCHEMA_VERSION = 1
GATHER_S = 0.002
"""How long a row waits for others to be committed with, while many come: what a kill can cost besides the calls in flight."""
CROWD = 4
"""More rows than this at once are many."""

# Rows of kilobytes are rowid tables: in a WITHOUT ROWID table they would fill the pages that every look-up passes.
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE calls (
    key TEXT NOT NULL, weights TEXT NOT NULL, role TEXT NOT NULL, stage TEXT NOT NULL, question_id TEXT NOT NULL,
    tries INTEGER NOT NULL, request TEXT NOT NULL, reply TEXT NOT NULL, finish_reason TEXT NOT NULL, model TEXT NOT NULL,
    input_tokens INTEGER, output_tokens INTEGER, usd REAL, seconds REAL NOT NULL, created REAL NOT NULL,
    PRIMARY KEY (key, weights));
CREATE TABLE traces (
    stage TEXT NOT NULL, recipe TEXT NOT NULL, question_id TEXT NOT NULL, outcome TEXT NOT NULL, tries INTEGER NOT NULL,
    question TEXT NOT NULL, messages TEXT NOT NULL, error TEXT, position INTEGER NOT NULL, created REAL NOT NULL,
    PRIMARY KEY (stage, recipe, question_id));
CREATE INDEX traces_in_order ON traces (stage, recipe, position);
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
    checkpoint TEXT NOT NULL, heldout TEXT NOT NULL, recipe TEXT NOT NULL, label TEXT NOT NULL, metrics TEXT NOT NULL,
    position INTEGER NOT NULL, PRIMARY KEY (checkpoint, heldout, recipe)) WITHOUT ROWID;
CREATE TABLE counters (
    role TEXT NOT NULL, name TEXT NOT NULL, value INTEGER NOT NULL, PRIMARY KEY (role, name)) WITHOUT ROWID;
"""

_COUNT = "INSERT INTO counters VALUES (?,?,?) ON CONFLICT (role, name) DO UPDATE SET value = value + excluded.value"


@dataclass(frozen=True, slots=True)
class Round:
    """One update of the student: what it was trained on, from where, to where, and whether it was promoted."""

    stage: str
    round: int
    traces: tuple[str, ...]
    data_hash: str
    start: str
    checkpoint: str
    promoted: bool
    reason: str
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run has paid so far, over all roles."""

    tokens: int
    usd: float


class Store:
    """The writing end. One process holds a run's store at a time (the caller holds the run directory's lock)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._reader = _open(path)
            connection = _open(path)
            _create_or_check(self._reader, path)
            self._position = self._reader.execute("SELECT coalesce(max(position), 0) FROM traces").fetchone()[0]
        except sqlite3.Error as error:
            raise StoreError(f"{path} cannot be used: {error}") from error
        self._reader_lock = threading.Lock()
        self._gathered: list[_Write] = []
        self._crowded = False
        self._writes: queue.SimpleQueue[list[_Write] | None] = queue.SimpleQueue()
        self._failed: StoreError | None = None
        self._writer = threading.Thread(
            target=self._write_until_closed, args=(connection,), name="store-writer", daemon=True
        )
        self._writer.start()

    # calls -------------------------------------------------------------------------------------------------------

    async def find_call(self, key: str, weights: Sequence[str]) -> Completion | None:
        """The stored reply to the call `key` as spoken by the first of these weights versions that has one.

        Looks up on the loop: by its index a call is found in a few microseconds, a tenth of what a thread would cost.
        """
        rows = self.read(
            "SELECT weights, reply, finish_reason, input_tokens, output_tokens, model FROM calls WHERE key = ?", key
        )
        spoken = {row[0]: row for row in rows}
        for version in weights:
            if version in spoken:
                _, text, finish_reason, input_tokens, output_tokens, model = spoken[version]
                usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
                return Completion(text, FinishReason(finish_reason), usage, model, version)
        return None

    async def add_call(
        self,
        key: str,
        role: str,
        stage: str,
        question_id: str,
        tries: int,
        request: str,
        reply: Completion,
        usd: float | None,
        seconds: float,
    ) -> None:
        await self._write(
            "INSERT OR REPLACE INTO calls VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            key, reply.weights, role, stage, question_id, tries, request, reply.text, reply.finish_reason.value,
            reply.model, reply.usage.input_tokens, reply.usage.output_tokens, usd, seconds, time.time(),
        )  # fmt: skip

    async def count(self, role: str, name: str, by: int = 1) -> None:
        """Add to a counter that outlives the process (reused, retried and failed calls)."""
        await self._write(_COUNT, role, name, by)

    def count_soon(self, role: str, name: str) -> None:
        """Add one, without waiting for the disk: for callbacks. If it cannot be written, the next awaited write says so."""
        self._queue(_COUNT, role, name, 1)

    def spent(self) -> Spent:
        tokens, usd = self.read(
            "SELECT coalesce(sum(coalesce(input_tokens,0) + coalesce(output_tokens,0)), 0), coalesce(sum(usd), 0) FROM calls"
        )[0]
        return Spent(tokens, usd)

    # traces ------------------------------------------------------------------------------------------------------

    async def add_trace(self, recipe: str, trace: Trace) -> None:
        """Insert the trace; a failed one of the same question is replaced."""
        self._position += 1
        messages = json.dumps([message.model_dump(mode="json") for message in trace.messages])
        await self._write(
            "INSERT OR REPLACE INTO traces VALUES (?,?,?,?,?,?,?,?,?,?)",
            trace.stage, recipe, trace.question.id, trace.outcome.value, trace.tries, trace.question.model_dump_json(),
            messages, trace.error, self._position, time.time(),
        )  # fmt: skip

    def outcomes(self, stage: str, recipe: str) -> dict[str, Outcome]:
        """Question id -> outcome, in the order in which the traces were finished."""
        rows = self.read(
            "SELECT question_id, outcome FROM traces WHERE stage = ? AND recipe = ? ORDER BY position", stage, recipe
        )
        return {question_id: Outcome(outcome) for question_id, outcome in rows}

    def edited_questions(self, stage: str, recipe: str, questions: Iterable[Question]) -> set[str]:
        """Ids of questions that read otherwise now than when their trace was made."""
        asked = dict(
            self.read("SELECT question_id, question FROM traces WHERE stage = ? AND recipe = ?", stage, recipe)
        )
        return {q.id for q in questions if q.id in asked and asked[q.id] != q.model_dump_json()}

    def traces(self, stage: str, recipe: str, question_ids: Iterable[str] | None = None) -> list[Trace]:
        """Traces in the order in which they were finished; only these questions' if given, in the order given."""
        sql = "SELECT question, messages, outcome, error FROM traces WHERE stage = ? AND recipe = ?"
        if question_ids is None:
            return [_trace(stage, *row) for row in self.read(f"{sql} ORDER BY position", stage, recipe)]
        rows = [self.read(f"{sql} AND question_id = ?", stage, recipe, id_) for id_ in question_ids]
        return [_trace(stage, *row) for found in rows for row in found]

    # rounds, stages, scores ----------------------------------------------------------------------------------------

    async def add_round(self, recipe: str, round_: Round) -> None:
        await self._write(
            "INSERT OR REPLACE INTO rounds VALUES (?,?,?,?,?,?,?,?,?,?,?)",
            round_.stage, recipe, round_.round, json.dumps(round_.traces), round_.data_hash, round_.start,
            round_.checkpoint, int(round_.promoted), round_.reason, json.dumps(round_.report), time.time(),
        )  # fmt: skip

    def rounds(self, stage: str, recipe: str) -> list[Round]:
        rows = self.read(
            "SELECT round, traces, data_hash, start, checkpoint, promoted, reason, report FROM rounds"
            " WHERE stage = ? AND recipe = ? ORDER BY round", stage, recipe,
        )  # fmt: skip
        return [
            Round(stage, n, tuple(json.loads(ids)), data, start, to, bool(promoted), reason, json.loads(report))
            for n, ids, data, start, to, promoted, reason, report in rows
        ]

    async def set_stage(
        self, stage: str, recipe: str, state: str, questions: int, checkpoint: str, seconds: float
    ) -> None:
        """Record where a stage stands. `seconds` adds up over the sessions that worked on it."""
        await self._write(
            "INSERT INTO stages VALUES (?,?,?,?,?,?,(SELECT coalesce(max(position),0)+1 FROM stages))"
            " ON CONFLICT (stage, recipe) DO UPDATE SET state = excluded.state, questions = excluded.questions,"
            " checkpoint = excluded.checkpoint, seconds = seconds + excluded.seconds,"
            " position = (SELECT max(position)+1 FROM stages)",
            stage, recipe, state, questions, checkpoint, seconds,
        )  # fmt: skip

    def finished_stage(self, stage: str, recipe: str) -> str | None:
        """The checkpoint version that a finished stage ended with; None when it is not finished."""
        rows = self.read(
            "SELECT checkpoint FROM stages WHERE stage = ? AND recipe = ? AND state = 'done'", stage, recipe
        )
        return str(rows[0][0]) if rows else None

    async def add_score(self, checkpoint: str, heldout: str, recipe: str, question_id: str, result: str) -> None:
        await self._write(
            "INSERT OR REPLACE INTO scores VALUES (?,?,?,?,?)", checkpoint, heldout, recipe, question_id, result
        )

    def scores(self, checkpoint: str, heldout: str, recipe: str) -> dict[str, str]:
        """Question id -> stored result of one evaluation."""
        sql = "SELECT question_id, result FROM scores WHERE checkpoint = ? AND heldout = ? AND recipe = ?"
        return dict(self.read(sql, checkpoint, heldout, recipe))

    async def add_evaluation(
        self, checkpoint: str, heldout: str, recipe: str, label: str, metrics: dict[str, Any]
    ) -> None:
        await self._write(
            "INSERT OR REPLACE INTO evaluations VALUES (?,?,?,?,?,"
            "(SELECT coalesce(max(position),0)+1 FROM evaluations))",
            checkpoint, heldout, recipe, label, json.dumps(metrics),
        )  # fmt: skip

    async def set_meta(self, key: str, value: Any) -> None:
        await self._write("INSERT OR REPLACE INTO meta VALUES (?,?)", key, json.dumps(value))

    # plumbing ------------------------------------------------------------------------------------------------------

    def read(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows as committed now. May be called from any thread."""
        try:
            with self._reader_lock:
                return self._reader.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"{self._path} cannot be read: {error}") from error

    async def _write(self, sql: str, *values: Any) -> None:
        """Returns once committed. Cancelling the caller does not take the row back: what was received stays."""
        if self._failed:
            raise self._failed
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()
        if not self._gathered:
            if self._crowded:
                loop.call_later(GATHER_S, self._hand_over)
            else:
                loop.call_soon(self._hand_over)
        self._gathered.append(_Write(sql, values, written))
        await written

    def _queue(self, sql: str, *values: Any) -> None:
        """To be written with what comes next, or by `close`. No one is told when."""
        self._gathered.append(_Write(sql, values, None))
        self._hand_over()

    def _hand_over(self) -> None:
        """Give the writer's thread what the loop has gathered: one wake-up for many rows."""
        batch, self._gathered = self._gathered, []
        self._crowded = len(batch) > CROWD
        if batch:
            self._writes.put(batch)

    def _write_until_closed(self, connection: sqlite3.Connection) -> None:
        """The writer's thread. After a failure it writes nothing more, and tells so everyone who waits."""
        for batch in self._batches():
            if self._failed is None:
                self._failed = self._commit(connection, batch)
            self._tell(batch, self._failed)
        connection.close()

    def _tell(self, batch: list[_Write], failed: StoreError | None) -> None:
        """Wake everyone who waits for the batch: one call into each loop, not one for each row."""
        waiting: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        for write in batch:
            if write.written is not None:
                waiting.setdefault(write.written.get_loop(), []).append(write.written)
        for loop, futures in waiting.items():
            with suppress(RuntimeError):  # the loop is closed: no one waits any more
                loop.call_soon_threadsafe(_settle, futures, failed)

    def _batches(self) -> Iterator[list[_Write]]:
        """What has queued up meanwhile, again and again, until `close`."""
        closed = False
        while not closed:
            queued = [self._writes.get()]
            while not self._writes.empty():
                queued.append(self._writes.get())
            closed = None in queued
            yield [write for batch in queued if batch is not None for write in batch]

    def _commit(self, connection: sqlite3.Connection, batch: list[_Write]) -> StoreError | None:
        """All of the batch or nothing of it. The failure, whatever it is: raised here it would leave everyone waiting."""
        try:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                for write in batch:
                    connection.execute(write.sql, write.values)
        except Exception as error:
            return StoreError(f"{self._path} cannot be written: {error}; what was committed is still there")
        return None

    def close(self) -> None:
        """Commit what is queued and let go of the file. A later write raises `StoreError`."""
        self._hand_over()
        self._writes.put(None)
        self._writer.join()
        self._failed = self._failed or StoreError(f"{self._path} is closed")
        self._reader.close()


@dataclass(frozen=True, slots=True)
class _Write:
    sql: str
    values: tuple[Any, ...]
    written: asyncio.Future[None] | None
    """None: no one waits."""


def _settle(futures: list[asyncio.Future[None]], failed: StoreError | None) -> None:
    for future in futures:
        if future.done():
            continue  # its caller was cancelled
        if failed is None:
            future.set_result(None)
        else:
            future.set_exception(failed)


def open_for_reading(path: Path) -> sqlite3.Connection:
    """A read-only connection for `status`, `traces` and `export`; the run may be going on meanwhile."""
    if not path.exists():
        raise StoreError(f"{path} does not exist: nothing has been run there yet")
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.Error as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    _check_version(version, path)
    return connection


def current_stages(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
    """(stage, recipe, state, questions, checkpoint, seconds): the newest row of each stage, in the order they were run."""
    return connection.execute(
        "SELECT stage, recipe, state, questions, checkpoint, seconds FROM stages s"
        " WHERE position = (SELECT max(position) FROM stages WHERE stage = s.stage) ORDER BY position"
    ).fetchall()


def current_traces(connection: sqlite3.Connection) -> list[Trace]:
    """The traces of the newest recipe of each stage, by stage and in the order in which they were finished."""
    sql = "SELECT question, messages, outcome, error FROM traces WHERE stage = ? AND recipe = ? ORDER BY position"
    return [
        _trace(stage, *row)
        for stage, recipe, *_ in current_stages(connection)
        for row in connection.execute(sql, (stage, recipe))
    ]


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def _create_or_check(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0 and not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    else:
        _check_version(version, path)


def _check_version(version: int, path: Path) -> None:
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"{path} has store version {version}, this meteor reads version {SCHEMA_VERSION}; "
            "use the meteor that wrote it, or another --run-dir"
        )


def _trace(stage: str, question: str, messages: str, outcome: str, error: str | None) -> Trace:
    return Trace.model_validate(
        {
            "stage": stage,
            "question": Question.model_validate_json(question),
            "messages": json.loads(messages),
            "outcome": outcome,
            "error": error,
        }
    )
