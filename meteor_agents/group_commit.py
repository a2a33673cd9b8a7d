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

from .errors import StoreError


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
        self._queued: queue.SimpleQueue[Write | None] = queue.SimpleQueue()
        self._failed: StoreError | None = None
        self._thread = threading.Thread(target=self._write_until_closed, name="store-writer", daemon=True)
        self._thread.start()

    async def write(self, sql: str, *values: Any) -> None:
        """Returns once committed. Cancelling the caller does not take the row back. Raises `StoreError`."""
        if self._failed:
            raise self._failed
        loop = asyncio.get_running_loop()
        waiter = Waiter(loop, loop.create_future())
        self._queued.put(Write(sql, values, waiter))
        await waiter.written

    def write_soon(self, sql: str, *values: Any) -> None:
        """Returns at once. If it cannot be written, the next `write` says so."""
        self._queued.put(Write(sql, values))

    def close(self) -> None:
        """Commit what is queued. A later write raises `StoreError`."""
        self._queued.put(None)
        self._thread.join()
        self._failed = self._failed or StoreError(f"{self._path} is closed")

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
            yield [write for write in queued if write is not None]

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
    for future in futures:
        if future.done():  # its caller was cancelled
            continue
        if failure is None:
            future.set_result(None)
        else:
            future.set_exception(failure)
