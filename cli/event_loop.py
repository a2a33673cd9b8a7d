"""An event loop that takes a few socket events in each turn, however many there are.

asyncio's own loop handles every reply that has arrived before it looks at timers and new work again. When replies arrive
faster than they are handled, each turn collects more of them than the one before; timers, the live view and Ctrl-C wait.
docs/design/engine-costs.md has what this costs and brings.
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
"""The most events handled in one turn of the loop. Fewer make turns shorter and their overhead larger, as
`benchmarks/bench_engine.py w1` shows."""

Result = TypeVar("Result")


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run `work` on such a loop and return its result, like `asyncio.run`."""
    with asyncio.Runner(loop_factory=open_event_loop) as runner:
        return runner.run(work)


if sys.platform == "linux":

    class FewAtATime(selectors.EpollSelector):
        """Reports at most `EVENTS_A_TURN` ready files at once.

        The kernel keeps the others in line ahead of those already reported, so none is passed over.
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
        """The events to report: an error on a file goes to its reader and its writer, as in `selectors`."""
        read = selectors.EVENT_READ if events & ~select.EPOLLOUT else 0
        return read | (selectors.EVENT_WRITE if events & ~select.EPOLLIN else 0)

    def open_event_loop() -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(FewAtATime())

else:

    def open_event_loop() -> asyncio.AbstractEventLoop:
        """asyncio's own loop, on systems without epoll."""
        return asyncio.new_event_loop()
