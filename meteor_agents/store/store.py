"""One SQLite file a run: calls, traces, rounds, scores, stages. What was received is committed before it is acted on.

`Records` is the reading end, `Store` adds the writing end. Writes go through one thread that commits whatever has queued
up as one transaction (`group_commit`); `await` returns once the row is committed. Reads use a connection of their own.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from meteor_agents.data.question_pool import QuestionPool
from meteor_agents.errors import StoreError
from meteor_agents.messages import AnyMessage, Question
from meteor_agents.models import Completion, FinishReason, Usage
from meteor_agents.store.schema import SCHEMA, check_version, create_or_migrate, version_of
from meteor_agents.store.seen_keys import SeenKeys
from meteor_agents.store.writer import GroupCommit
from meteor_agents.traces import Outcome, Trace

_MESSAGES: TypeAdapter[tuple[AnyMessage, ...]] = TypeAdapter(tuple[AnyMessage, ...])
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
    """What calls have used: of one role, or of all."""

    calls: int
    input_tokens: int
    output_tokens: int
    usd: float
    unpriced: int
    """Calls whose price is not known; `usd` is what the others cost."""

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


class StageRecord(NamedTuple):
    """Where a stage stands."""

    name: str
    recipe: str
    state: str
    questions: int
    checkpoint: str
    seconds: float


class CallRecord(NamedTuple):
    """What one call was asked and how long it was."""

    stage: str
    request: str
    input_tokens: int | None
    output_tokens: int | None


class Records:
    """The reading end. Every method raises `StoreError` when the file cannot be read."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._reader = connection
        self._reader_lock = threading.Lock()
        self._path = path

    @classmethod
    def none(cls) -> Records:
        """Of a run that has not begun."""
        connection = sqlite3.connect(":memory:", check_same_thread=False)
        connection.executescript(SCHEMA)
        return cls(connection, Path(":memory:"))

    def close(self) -> None:
        self._reader.close()

    # calls -------------------------------------------------------------------------------------------------------

    def find_call(self, key: str, weights: Sequence[str], max_tokens: int) -> Completion | None:
        """A stored reply to the call `key` that serves for `max_tokens`, of the first of these weights that has one.

        It serves if it was asked for with the same limit, or if it ended by itself within this one. A reply that was cut
        serves for no other limit: a higher one may go on, a lower one would have cut it earlier.
        """
        rows = self.read(
            "SELECT weights, max_tokens, reply, finish_reason, input_tokens, output_tokens, model FROM calls"
            " WHERE key = ?", key,
        )  # fmt: skip
        stored = {(row[0], row[1]): _reply(*row) for row in rows}
        for version in weights:
            if (version, max_tokens) in stored:
                return stored[version, max_tokens]
            for (spoken_by, limit), reply in stored.items():
                if spoken_by == version and _ended_within(max_tokens, reply, limit):
                    return reply
        return None

    def newest_calls(self, role: str, count: int) -> list[CallRecord]:
        """At most so many of a role's calls, the newest first."""
        rows = self.read(
            "SELECT stage, request, input_tokens, output_tokens FROM"
            " (SELECT * FROM calls ORDER BY rowid DESC LIMIT ?) WHERE role = ? LIMIT ?", count * 10, role, count,
        )  # fmt: skip
        return [CallRecord(*row) for row in rows]

    def spent(self) -> Spent:
        """By the whole run, over all roles."""
        by_role = self.spent_by_role().values()
        return Spent(
            calls=sum(spent.calls for spent in by_role),
            input_tokens=sum(spent.input_tokens for spent in by_role),
            output_tokens=sum(spent.output_tokens for spent in by_role),
            usd=sum(spent.usd for spent in by_role),
            unpriced=sum(spent.unpriced for spent in by_role),
        )

    def spent_by_role(self) -> dict[str, Spent]:
        rows = self.read(
            "SELECT role, sum(calls), sum(input_tokens), sum(output_tokens), sum(usd), sum(unpriced) FROM totals"
            " GROUP BY role"
        )
        return {role: Spent(*totals) for role, *totals in rows}

    def tokens_by_stage(self) -> dict[str, int]:
        """Stage -> tokens in and out of all roles."""
        return dict(self.read("SELECT stage, sum(input_tokens + output_tokens) FROM totals GROUP BY stage"))

    def counters(self) -> list[tuple[str, str, int]]:
        """(role, name, value): calls that were reused, retried or failed."""
        return [(role, name, value) for role, name, value in self.read("SELECT role, name, value FROM counters")]

    # traces ------------------------------------------------------------------------------------------------------

    def outcomes(self, stage: str, recipe: str) -> Iterator[tuple[str, Outcome]]:
        """Question id and outcome, in the order in which the traces were finished."""
        rows = self.each(
            "SELECT question_id, outcome FROM traces WHERE stage = ? AND recipe = ? ORDER BY position", stage, recipe
        )
        return ((question_id, Outcome(outcome)) for question_id, outcome in rows)

    def owed(self, stage: str, recipe: str, questions: QuestionPool, *, retry_failed: bool = True) -> QuestionPool:
        """Questions that have no settled trace as they read now.

        A failed trace is not settled, so that its question is asked again. Without `retry_failed` it is settled once its
        stage is done.
        """
        finished = not retry_failed and self.finished_stage(stage, recipe) is not None
        rows = self.each(
            "SELECT question_id, question FROM traces WHERE stage = ? AND recipe = ? AND (? OR outcome <> ?)",
            stage, recipe, finished, Outcome.FAILED.value,
        )  # fmt: skip
        return questions.without((id_, asked) for id_, asked in rows)

    def outcome_counts(self, stage: str, recipe: str, questions: QuestionPool) -> Counter[Outcome]:
        """How the conversations about these questions ended. Each of them has a trace."""
        counts: Counter[Outcome] = Counter()
        for outcome, _, traces in self.trace_totals(stage, recipe):
            counts[Outcome(outcome)] += traces
        if counts.total() == len(questions):
            return counts
        wanted = set(questions.ids)  # the run has held more: it was started with another number of questions
        return Counter(outcome for id_, outcome in self.outcomes(stage, recipe) if id_ in wanted)

    def first_error(self, stage: str, recipe: str) -> str | None:
        """Why the first of a stage's failed traces failed."""
        sql = "SELECT error FROM traces WHERE stage = ? AND recipe = ? AND error IS NOT NULL ORDER BY position LIMIT 1"
        rows = self.read(sql, stage, recipe)
        return str(rows[0][0]) if rows else None

    def traces(self, stage: str, recipe: str, question_ids: Iterable[str] | None = None) -> list[Trace]:
        """Traces in the order in which they were finished; only these questions' if given, in the order given."""
        sql = "SELECT question, messages, outcome, error FROM traces WHERE stage = ? AND recipe = ?"
        if question_ids is None:
            return [_trace(stage, *row) for row in self.each(f"{sql} ORDER BY position", stage, recipe)]
        rows = [self.read(f"{sql} AND question_id = ?", stage, recipe, id_) for id_ in question_ids]
        return [_trace(stage, *row) for found in rows for row in found]

    def trace_totals(self, stage: str, recipe: str) -> list[tuple[str, int, int]]:
        """(outcome, tries, how many traces)."""
        sql = "SELECT outcome, tries, traces FROM trace_totals WHERE stage = ? AND recipe = ? AND traces > 0"
        return [(outcome, tries, traces) for outcome, tries, traces in self.read(sql, stage, recipe)]

    def current_traces(self) -> Iterator[Trace]:
        """The traces of the newest recipe of each stage, by stage and in the order in which they were finished."""
        for stage in self.current_stages():
            yield from self.traces(stage.name, stage.recipe)

    # rounds, stages, scores ----------------------------------------------------------------------------------------

    def rounds(self, stage: str, recipe: str) -> list[Round]:
        rows = self.read(
            "SELECT round, traces, data_hash, start, checkpoint, promoted, reason, report FROM rounds"
            " WHERE stage = ? AND recipe = ? ORDER BY round", stage, recipe,
        )  # fmt: skip
        return [
            Round(stage, n, tuple(json.loads(ids)), data, start, to, bool(promoted), reason, json.loads(report))
            for n, ids, data, start, to, promoted, reason, report in rows
        ]

    def checkpoints(self) -> list[tuple[str, str, str, bool]]:
        """(stage, recipe, checkpoint, promoted) of every round that was ever recorded, oldest first."""
        rows = self.read("SELECT stage, recipe, checkpoint, promoted FROM rounds ORDER BY created, round")
        return [(stage, recipe, checkpoint, bool(promoted)) for stage, recipe, checkpoint, promoted in rows]

    def current_stages(self) -> list[StageRecord]:
        """Each stage under its newest recipe, in the order they were run."""
        rows = self.read(
            "SELECT stage, recipe, state, questions, checkpoint, seconds FROM stages s"
            " WHERE position = (SELECT max(position) FROM stages WHERE stage = s.stage) ORDER BY position"
        )
        return [StageRecord(*row) for row in rows]

    def finished_stage(self, stage: str, recipe: str) -> str | None:
        """The checkpoint version that a finished stage ended with; None when it is not finished."""
        rows = self.read(
            "SELECT checkpoint FROM stages WHERE stage = ? AND recipe = ? AND state = 'done'", stage, recipe
        )
        return str(rows[0][0]) if rows else None

    def scores(self, checkpoint: str, heldout: str, recipe: str) -> dict[str, str]:
        """Question id -> stored result of one evaluation."""
        sql = "SELECT question_id, result FROM scores WHERE checkpoint = ? AND heldout = ? AND recipe = ?"
        return dict(self.read(sql, checkpoint, heldout, recipe))

    def evaluations(self, checkpoint: str) -> dict[str, Any]:
        """By held-out set, the newest evaluation of this checkpoint."""
        rows = self.read("SELECT heldout, metrics FROM evaluations WHERE checkpoint = ? ORDER BY position", checkpoint)
        return {heldout: json.loads(metrics) for heldout, metrics in rows}

    def lineage(self) -> dict[str, str]:
        """Where a checkpoint comes from (base, finetune, refine, self-train) -> its version."""
        return {label: content["version"] for label, content in self.meta("lineage", {}).items()}

    def meta(self, key: str, otherwise: Any = None) -> Any:
        rows = self.read("SELECT value FROM meta WHERE key = ?", key)
        return json.loads(rows[0][0]) if rows else otherwise

    # plumbing ------------------------------------------------------------------------------------------------------

    def read(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows as committed now. May be called from any thread."""
        try:
            with self._reader_lock:
                return self._reader.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(_unreadable(self._path, error)) from error

    def each(self, sql: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """The same, row by row: memory does not grow with them."""
        try:
            yield from self._reader.execute(sql, values)
        except sqlite3.Error as error:
            raise StoreError(_unreadable(self._path, error)) from error


class Store(Records):
    """Both ends. One process holds a run's store at a time (the caller holds the run directory's lock)."""

    def __init__(self, path: Path) -> None:
        try:
            super().__init__(_open(path), path)
            connection = _open(path)
            create_or_migrate(connection, path)
            self._position = self._reader.execute("SELECT coalesce(max(position), 0) FROM traces").fetchone()[0]
            self._seen = SeenKeys(key for (key,) in self._reader.execute("SELECT key FROM calls"))
        except sqlite3.Error as error:
            raise StoreError(_unusable(path, error)) from error
        self._writer = GroupCommit(connection, path)
        self._write = self._writer.write

    def find_call(self, key: str, weights: Sequence[str], max_tokens: int) -> Completion | None:
        """Most calls are new, and a question to SQLite costs as much as a twentieth of a whole call."""
        return super().find_call(key, weights, max_tokens) if key in self._seen else None

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
        *,
        max_tokens: int,
    ) -> None:
        """`usd` is None where the price is not known. What the model thought first is kept beside the reply."""
        self._seen.add(key)
        if reply.reasoning:
            self._writer.write_soon(
                "INSERT OR REPLACE INTO reasoning VALUES (?,?,?,?)", key, reply.weights, max_tokens, reply.reasoning
            )
        await self._write(
            "INSERT INTO calls VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (key, weights, max_tokens)"
            " DO UPDATE SET reply = excluded.reply, finish_reason = excluded.finish_reason, usd = excluded.usd,"
            " input_tokens = excluded.input_tokens, output_tokens = excluded.output_tokens",
            key, reply.weights, max_tokens, role, stage, question_id, tries, request, reply.text,
            reply.finish_reason.value, reply.model, reply.usage.input_tokens, reply.usage.output_tokens, usd, seconds,
            time.time(),
        )  # fmt: skip

    def count_soon(self, role: str, name: str) -> None:
        """Add one to a counter that outlives the process (reused, retried and failed calls), without waiting for the disk.

        If it cannot be written, the next awaited write says so.
        """
        self._writer.write_soon(_COUNT, role, name, 1)

    async def add_trace(self, recipe: str, trace: Trace) -> None:
        """Insert the trace; an earlier one of the same question is replaced, and the new one is the newest."""
        self._position += 1
        messages = _MESSAGES.dump_json(trace.messages).decode()
        await self._write(
            "INSERT INTO traces VALUES (?,?,?,?,?,?,?,?,?,?) ON CONFLICT (stage, recipe, question_id) DO UPDATE SET"
            " position = excluded.position, outcome = excluded.outcome, tries = excluded.tries,"
            " question = excluded.question, messages = excluded.messages, error = excluded.error,"
            " created = excluded.created",
            self._position, trace.stage, recipe, trace.question.id, trace.outcome.value, trace.tries,
            trace.question.model_dump_json(), messages, trace.error, time.time(),
        )  # fmt: skip

    async def add_round(self, recipe: str, round_: Round) -> None:
        await self._write(
            "INSERT OR REPLACE INTO rounds VALUES (?,?,?,?,?,?,?,?,?,?,?)",
            round_.stage, recipe, round_.round, json.dumps(round_.traces), round_.data_hash, round_.start,
            round_.checkpoint, int(round_.promoted), round_.reason, json.dumps(round_.report), time.time(),
        )  # fmt: skip

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

    async def add_score(self, checkpoint: str, heldout: str, recipe: str, question_id: str, result: str) -> None:
        await self._write(
            "INSERT OR REPLACE INTO scores VALUES (?,?,?,?,?)", checkpoint, heldout, recipe, question_id, result
        )

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

    def close(self) -> None:
        """Commit what is queued and let go of the file. A later write raises `StoreError`."""
        self._writer.close()
        super().close()


def open_for_reading(path: Path) -> Records:
    """For `status`, `traces`, `export` and `estimate`; the run may be going on meanwhile. Raises `StoreError`."""
    if not path.exists():
        raise StoreError(f"{path} does not exist: nothing has been run there yet")
    connection = None
    try:
        connection = _open_read_only(path)
        version = version_of(connection)
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise StoreError(_unreadable(path, error)) from error
    check_version(version, path)
    return Records(connection, path)


def _open_read_only(path: Path) -> sqlite3.Connection:
    """A store that was closed properly can also be read where nothing may be written."""
    address = path.absolute().as_uri()
    connection = sqlite3.connect(f"{address}?mode=ro", uri=True, check_same_thread=False)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master")
        return connection
    except sqlite3.OperationalError:
        connection.close()
        if path.with_name(f"{path.name}-wal").exists():
            raise
    return sqlite3.connect(f"{address}?mode=ro&immutable=1", uri=True, check_same_thread=False)


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def _unusable(path: Path, error: sqlite3.Error) -> str:
    return f"{path} cannot be used: {error}; {_advice(error)}"


def _unreadable(path: Path, error: sqlite3.Error) -> str:
    return f"{path} cannot be read: {error}; {_advice(error)}"


def _advice(error: sqlite3.Error) -> str:
    text = str(error)
    if "malformed" in text or "not a database" in text:
        return "the file is damaged: put a copy of it back, or start over with --fresh, which keeps this one aside"
    if "full" in text or "disk I/O" in text:
        return "make room on that disk and run the same command again; what was committed is still there"
    return "see to the folder's permissions and its disk, then run the same command again"


def _reply(
    weights: str,
    max_tokens: int,
    text: str,
    finish_reason: str,
    input_tokens: int | None,
    output_tokens: int | None,
    model: str,
) -> Completion:
    usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
    return Completion(text, FinishReason(finish_reason), usage, model, weights)


def _ended_within(max_tokens: int, reply: Completion, limit: int) -> bool:
    """The reply, asked for with `limit`, would have been the same with `max_tokens`."""
    if reply.finish_reason is FinishReason.CUT:
        return False
    said = reply.usage.output_tokens
    return limit <= max_tokens or (said is not None and said <= max_tokens)


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
