"""The door between calls and whatever must not happen while calls are in flight, such as loading new weights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Door:
    """Calls pass while it is open. Whoever closes it waits until the calls inside have left."""

    def __init__(self) -> None:
        self.closing = asyncio.Lock()
        """Held to close the door. Holding it without closing keeps the door in its state."""
        self._open = asyncio.Event()
        self._open.set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._inside = 0

    @property
    def is_open(self) -> bool:
        """Whether a call would pass now."""
        return self._open.is_set()

    @asynccontextmanager
    async def through(self) -> AsyncIterator[None]:
        """One call's way: waits while the door is closed, then keeps it from closing until the block ends."""
        while not self._open.is_set():
            await self._open.wait()
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """No call is inside during the block, and new ones wait for its end."""
        async with self.closing:
            self._open.clear()
            try:
                await self._empty.wait()
                yield
            finally:
                self._open.set()
