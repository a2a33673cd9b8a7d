"""One thread owns the writing connection. It commits whatever has queued up as one transaction."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meteor_agents.errors import StoreError
from meteor_agents.safe_text import clean

WOKEN_AT_ONCE = 8
"""How many of those who wait for a commit continue in one turn of the event loop: waking hundreds at once would make every
timer late (docs/design/engine-costs.md)."""
KEPT_BACK = 32
"""How many rows without a waiter are kept back until a row has one."""
LOCKED_NOTE_S = 5.0
"""After how long a lock of another program is reported, and then again every so often."""
LOCKED_S = 600.0
"""How long such a lock is waited for before the run ends."""
LOCKED_AT_CLOSE_S = 60.0
"""The same, when the run has ended and only waits for its last rows."""
LARGEST = 2**63 - 1
"""The largest integer that SQLite holds."""


@dataclass(frozen=True, slots=True)
class Write:
    """One statement, and who waits for it, if anyone does."""

    sql: str
    values: tuple[Any, ...]
    waiter: Waiter | None = None


@dataclass(frozen=True, slots=True)
class Waiter:
    """A coroutine that waits until its row is committed."""

    loop: asyncio.AbstractEventLoop
    written: asyncio.Future[None]


class GroupCommit:
    """Writes statements in the order in which they came.

    After a failure nothing more is written: every waiting and every later write raises the same `StoreError`.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self.listener: Callable[[str], None] = lambda sentence: None
        """Hears, in the writing thread, that another program keeps the file locked."""
        self._gathered: list[Write] = []
        self._closing = False
        self._queued: queue.SimpleQueue[list[Write] | None] = queue.SimpleQueue()
        self._failed: StoreError | None = None
        self._thread = threading.Thread(target=self._write_until_closed, name="store-writer", daemon=True)
        self._thread.start()

    async def write(self, sql: str, *values: Any) -> None:
        """Returns once the row is committed. Cancelling the caller does not take the row back. Raises `StoreError`."""
        if self._failed:
            raise self._failed
        loop = asyncio.get_running_loop()
        waiter = Waiter(loop, loop.create_future())
        if not any(write.waiter for write in self._gathered):
            loop.call_soon(self._hand_over)  # with all that this turn of the loop still writes
        self._gathered.append(Write(sql, values, waiter))
        await waiter.written

    def write_soon(self, sql: str, *values: Any) -> None:
        """Returns at once. The row goes with the next `write`, or with `close`; a failure is raised by the next `write`."""
        self._gathered.append(Write(sql, values))
        if len(self._gathered) > KEPT_BACK:
            self._hand_over()

    def close(self) -> None:
        """Commit what is queued. A later write raises `StoreError`."""
        self._closing = True
        self._hand_over()
        self._queued.put(None)
        self._thread.join()
        self._failed = self._failed or StoreError(f"{self._path} is closed")

    def _hand_over(self) -> None:
        """Give the thread what the loop has gathered: waking it once for many rows costs less than once for each."""
        batch, self._gathered = self._gathered, []
        if batch:
            self._queued.put(batch)

    def _write_until_closed(self) -> None:
        for batch in self._batches():
            if self._failed is None:
                self._failed = self._commit(batch)
            _tell(batch, self._failed)
        self._connection.close()

    def _batches(self) -> Iterator[list[Write]]:
        """What has queued up meanwhile, again and again, until `close`."""
        closed = False
        while not closed:
            queued = [self._queued.get()]
            while not self._queued.empty():
                queued.append(self._queued.get())
            closed = None in queued
            yield [write for batch in queued if batch is not None for write in batch]

    def _commit(self, batch: Sequence[Write]) -> StoreError | None:
        """Commit all of the batch or nothing of it. Returns the failure, whatever it is: raised, it would end the thread
        and leave everyone waiting."""
        try:
            self._begin()
            with self._connection:
                for write in batch:
                    self._execute(write)
        except Exception as error:
            return StoreError(f"{self._path} cannot be written: {error}; what was committed is still there")
        return None

    def _begin(self) -> None:
        """Take the write lock. While another program has it, wait and say so."""
        started = time.monotonic()
        while True:
            try:
                self._connection.execute(f"PRAGMA busy_timeout = {int(LOCKED_NOTE_S * 1000)}")
                self._connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                waited = time.monotonic() - started
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or waited >= (LOCKED_AT_CLOSE_S if self._closing else LOCKED_S):
                    raise
                self.listener(f"{self._path} has been locked by another program for {waited:.0f} s: waiting for it")

    def _execute(self, write: Write) -> None:
        try:
            self._connection.execute(write.sql, write.values)
        except (UnicodeEncodeError, OverflowError):  # whatever slipped through to here must not end the run for good
            self._connection.execute(write.sql, tuple(map(_bounded, write.values)))


def _bounded(value: Any) -> Any:
    """The value as SQLite can hold it."""
    if isinstance(value, str):
        return clean(value)
    return max(-LARGEST, min(value, LARGEST)) if isinstance(value, int) else value


def _tell(batch: Sequence[Write], failure: StoreError | None) -> None:
    """Wake everyone who waits, with one call into each event loop."""
    waiting: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = defaultdict(list)
    for write in batch:
        if write.waiter is not None:
            waiting[write.waiter.loop].append(write.waiter.written)
    for loop, futures in waiting.items():
        with suppress(RuntimeError):  # the loop was closed: no one waits there any more
            loop.call_soon_threadsafe(_settle, futures, failure)


def _settle(futures: Sequence[asyncio.Future[None]], failure: StoreError | None) -> None:
    """Wake a few now and the others in the next turns of the loop."""
    if len(futures) > WOKEN_AT_ONCE:
        asyncio.get_running_loop().call_soon(_settle, futures[WOKEN_AT_ONCE:], failure)
    for future in futures[:WOKEN_AT_ONCE]:
        if future.done():  # its caller was cancelled
            continue
        if failure is None:
            future.set_result(None)
        else:
            future.set_exception(failure)
