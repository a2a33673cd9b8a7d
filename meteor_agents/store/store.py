"""One SQLite file a run. What was received is committed before it is acted on.

Writes go through one thread, which commits whatever has queued up as one transaction (`GroupCommit`); `await` returns once
the row is committed. Reads use a connection of their own.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from meteor_agents.errors import StoreError
from meteor_agents.messages import AnyMessage, Question
from meteor_agents.safe_text import clean
from meteor_agents.store.call_records import NewCall
from meteor_agents.store.database import open_for_writing, unusable
from meteor_agents.store.evaluations import EvaluationRecord
from meteor_agents.store.records import Records
from meteor_agents.store.schema import create_tables
from meteor_agents.store.stage_records import Round
from meteor_agents.store.storable import as_json
from meteor_agents.store.writer import GroupCommit
from meteor_agents.traces import Trace

_MESSAGES: TypeAdapter[tuple[AnyMessage, ...]] = TypeAdapter(tuple[AnyMessage, ...])
_QUESTION: TypeAdapter[Question] = TypeAdapter(Question)


class Counter(StrEnum):
    """Counts that are kept for each role. `meteor status --json` shows the first five by these names."""

    REUSED = "reused"
    RETRIED = "retried"
    FAILED = "failed"
    REFUSED = "refused"
    """Replies in which the model declined."""
    FILTERED = "filtered"
    """Replies that a content filter ended."""
    UNLISTED_TOKENS = "unlisted_tokens"
    """Tokens that no stored call lists: estimates where a server reported none, and what failed tries used."""
    UNLISTED_MICRO_USD = "unlisted_micro_usd"
    """What those cost, in millionths of a US dollar."""


class Store(Records):
    """The reading and the writing end. One process holds a run's store at a time: take the `RunDirectory` lock first.

    Creates the file where there is none. Raises `StoreError` when it cannot be used; so does every write that fails, and
    every later one.
    """

    def __init__(self, path: Path) -> None:
        reader = writer = None
        try:
            reader, writer = open_for_writing(path), open_for_writing(path)
            create_tables(writer, path)
            self._position = int(writer.execute("SELECT coalesce(max(position), 0) FROM traces").fetchone()[0])
        except (sqlite3.Error, OSError, StoreError) as error:
            for connection in (reader, writer):
                if connection is not None:
                    connection.close()
            raise error if isinstance(error, StoreError) else unusable(path, error) from error
        super().__init__(reader, path)
        self._writer = GroupCommit(writer, path)
        self._write = self._writer.write

    def tell(self, listener: Callable[[str], None]) -> None:
        """Call `listener`, in the writing thread, with a sentence while another program keeps the file locked."""
        self._writer.listener = listener

    async def add_call(self, call: NewCall) -> None:
        """Store a call with its reply, and what the model thought first."""
        key, reply = call.key, call.reply
        if reply.reasoning:
            self._writer.write_soon(
                "INSERT OR REPLACE INTO reasoning VALUES (?,?,?,?)", key, reply.weights, call.max_tokens, reply.reasoning
            )
        await self._write(
            "INSERT INTO calls VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (key, weights, max_tokens)"
            " DO UPDATE SET reply = excluded.reply, finish_reason = excluded.finish_reason, usd = excluded.usd,"
            " input_tokens = excluded.input_tokens, output_tokens = excluded.output_tokens",
            key, reply.weights, call.max_tokens, call.role, call.stage, call.question_id, call.tries, call.request,
            reply.text, reply.finish_reason.value, reply.model, reply.usage.input_tokens, reply.usage.output_tokens,
            call.usd, call.seconds, time.time(),
        )  # fmt: skip

    def count_soon(self, role: str, name: str, by: int = 1) -> None:
        """Add to a counter that outlives the process (`Counter`), without waiting for the disk.

        If it cannot be written, the next awaited write raises.
        """
        self._writer.write_soon(
            "INSERT INTO counters VALUES (?,?,?) ON CONFLICT (role, name) DO UPDATE SET value = value + excluded.value",
            role, str(name), by,
        )  # fmt: skip

    async def add_trace(self, recipe: str, trace: Trace) -> None:
        """Store a trace. An earlier one of the same question is replaced, and the new one counts as the newest."""
        self._position += 1
        await self._write(
            "INSERT INTO traces VALUES (?,?,?,?,?,?,?,?,?,?) ON CONFLICT (stage, recipe, question_id) DO UPDATE SET"
            " position = excluded.position, outcome = excluded.outcome, tries = excluded.tries,"
            " question = excluded.question, messages = excluded.messages, error = excluded.error,"
            " created = excluded.created",
            self._position, trace.stage, recipe, trace.question.id, trace.outcome.value, trace.tries,
            as_json(_QUESTION, trace.question), as_json(_MESSAGES, trace.messages),
            None if trace.error is None else clean(trace.error), time.time(),
        )  # fmt: skip

    async def add_round(self, recipe: str, round_: Round) -> None:
        """Store an update of the student, in place of an earlier one of the same number."""
        await self._write(
            "INSERT OR REPLACE INTO rounds VALUES (?,?,?,?,?,?,?,?,?,?,?)",
            round_.stage, recipe, round_.round, json.dumps(round_.traces), round_.data_hash, round_.start,
            round_.checkpoint, int(round_.promoted), clean(round_.reason), json.dumps(round_.report), time.time(),
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
        """Store the result (JSON) of one held-out question."""
        await self._write(
            "INSERT OR REPLACE INTO scores VALUES (?,?,?,?,?)", checkpoint, heldout, recipe, question_id, result
        )

    async def add_evaluation(self, evaluation: EvaluationRecord) -> None:
        """Keep an evaluation as the newest; an earlier one with the same identity is replaced."""
        await self._write(
            "INSERT OR REPLACE INTO evaluations VALUES (?,?,?,?,?,?,?,"
            "(SELECT coalesce(max(position),0)+1 FROM evaluations))",
            *evaluation[:-1], json.dumps(evaluation.metrics),
        )  # fmt: skip

    async def set_meta(self, key: str, value: Any) -> None:
        """Keep a fact by name, in place of an earlier one (`meta` reads it)."""
        await self._write("INSERT OR REPLACE INTO meta VALUES (?,?)", key, json.dumps(value))

    def close(self) -> None:
        """Commit what is queued and let go of the file. A later write raises `StoreError`."""
        self._writer.close()
        super().close()
