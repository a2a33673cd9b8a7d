"""An event loop that takes a few socket events at a time, however many there are.

asyncio's own loop works off every reply that has arrived before it looks at its timers and at new work again. When replies
come faster than they are worked off, each turn gathers more of them than the last, and timers, the view and Ctrl-C wait.
"""

from __future__ import annotations

import asyncio
import os
import select
import selectors
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

EVENTS_A_TURN = 10
"""Fewer make turns shorter and their overhead larger; `benchmarks/bench_engine.py w1` shows both."""

Result = TypeVar("Result")


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """`asyncio.run` on such a loop."""
    with asyncio.Runner(loop_factory=open_event_loop) as runner:
        return runner.run(work)


if sys.platform == "linux":

    class FewAtATime(selectors.EpollSelector):
        """Tells of at most `EVENTS_A_TURN` ready files at once.

        The kernel keeps the others in line, before those that it has told of: none is passed over.
        """

        def __init__(self) -> None:
            super().__init__()
            self._same = select.epoll.fromfd(os.dup(self.fileno()))

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            ready = []
            keys = self.get_map()
            for fd, events in self._same.poll(-1 if timeout is None else max(0.0, timeout), EVENTS_A_TURN):
                if (key := keys.get(fd)) is not None:
                    ready.append((key, _asked_for(events) & key.events))
            return ready

        def close(self) -> None:
            self._same.close()
            super().close()

    def _asked_for(events: int) -> int:
        """Trouble with a file is told to whoever reads or writes it, as `selectors` does."""
        read = selectors.EVENT_READ if events & ~select.EPOLLOUT else 0
        return read | (selectors.EVENT_WRITE if events & ~select.EPOLLIN else 0)

    def open_event_loop() -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(FewAtATime())

else:

    def open_event_loop() -> asyncio.AbstractEventLoop:
        """Elsewhere asyncio's own."""
        return asyncio.new_event_loop()
