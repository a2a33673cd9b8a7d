"""One thread that owns the writing connection, and commits whatever has queued up meanwhile as one transaction."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meteor_agents.errors import StoreError

GATHER_S = 0.002
"""How long, while many come, a row waits to be committed with others: what a kill costs besides the calls in flight."""
CROWD = 4
"""More rows than this at once are many."""
WOKEN_AT_ONCE = 8
"""How many of those who wait for a commit go on in one turn of the event loop."""
KEPT_BACK = 32
"""How many rows that no one waits for are kept back until someone does."""


@dataclass(frozen=True, slots=True)
class Write:
    """One statement, and who waits for it, if anyone does."""

    sql: str
    values: tuple[Any, ...]
    waiter: Waiter | None = None


@dataclass(frozen=True, slots=True)
class Waiter:
    loop: asyncio.AbstractEventLoop
    written: asyncio.Future[None]


class GroupCommit:
    """Statements in the order in which they came. After a failure nothing more is written, and everyone is told."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._gathered: list[Write] = []
        self._crowded = False
        self._queued: queue.SimpleQueue[list[Write] | None] = queue.SimpleQueue()
        self._failed: StoreError | None = None
        self._thread = threading.Thread(target=self._write_until_closed, name="store-writer", daemon=True)
        self._thread.start()

    async def write(self, sql: str, *values: Any) -> None:
        """Returns once committed. Cancelling the caller does not take the row back. Raises `StoreError`."""
        if self._failed:
            raise self._failed
        loop = asyncio.get_running_loop()
        waiter = Waiter(loop, loop.create_future())
        if not any(write.waiter for write in self._gathered):
            if self._crowded:
                loop.call_later(GATHER_S, self._hand_over)
            else:
                loop.call_soon(self._hand_over)
        self._gathered.append(Write(sql, values, waiter))
        await waiter.written

    def write_soon(self, sql: str, *values: Any) -> None:
        """Returns at once; goes with the next `write`, or with `close`. If it cannot be written, the next one says so."""
        self._gathered.append(Write(sql, values))
        if len(self._gathered) > KEPT_BACK:
            self._hand_over()

    def close(self) -> None:
        """Commit what is queued. A later write raises `StoreError`."""
        self._hand_over()
        self._queued.put(None)
        self._thread.join()
        self._failed = self._failed or StoreError(f"{self._path} is closed")

    def _hand_over(self) -> None:
        """Give the thread what the loop has gathered: waking it once for many rows costs less than once for each."""
        batch, self._gathered = self._gathered, []
        self._crowded = len(batch) > CROWD
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
        """All of the batch or nothing of it. The failure, whatever it is: raised here it would leave everyone waiting."""
        try:
            with self._connection as connection:
                connection.execute("BEGIN IMMEDIATE")
                for write in batch:
                    connection.execute(write.sql, write.values)
        except Exception as error:
            return StoreError(f"{self._path} cannot be written: {error}; what was committed is still there")
        return None


def _tell(batch: Sequence[Write], failure: StoreError | None) -> None:
    """Wake everyone who waits: one call into each loop, however many wait there."""
    waiting: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = defaultdict(list)
    for write in batch:
        if write.waiter is not None:
            waiting[write.waiter.loop].append(write.waiter.written)
    for loop, futures in waiting.items():
        with suppress(RuntimeError):  # the loop was closed: no one waits there any more
            loop.call_soon_threadsafe(_settle, futures, failure)


def _settle(futures: Sequence[asyncio.Future[None]], failure: StoreError | None) -> None:
    """A few at a time: hundreds of conversations that go on at once would hold the loop."""
    if len(futures) > WOKEN_AT_ONCE:
        asyncio.get_running_loop().call_soon(_settle, futures[WOKEN_AT_ONCE:], failure)
    for future in futures[:WOKEN_AT_ONCE]:
        if future.done():  # its caller was cancelled
            continue
        if failure is None:
            future.set_result(None)
        else:
            future.set_exception(failure)
