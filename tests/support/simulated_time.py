"""An event loop whose clock jumps to the next timer instead of waiting: seconds cost nothing, and no load delays them."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class _Jumps(selectors.DefaultSelector):
    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everyone waits, and for nothing that will come"
        self.now_s += max(0.0, timeout)
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumps = _Jumps()
        super().__init__(self._jumps)

    def time(self) -> float:
        return self._jumps.now_s


def run_simulated(work: Coroutine[Any, Any, Result]) -> Result:
    """`asyncio.run` for work without threads, files or sockets."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(work)
