"""An SGLang server of our own: started, watched, started again when it crashes, and gone when we are.

1. `start` runs `python -m sglang.launch_server` under `process_watch.py`, in a process group of its own, and waits until
   the server has generated a token with the weights that it was started for.
2. A keeper task watches the process. When it ends, or when a caller doubts it and it does not answer, what is left of
   the group is killed and the server is started again with the weights that it served, after a pause that doubles.
3. `up` is where callers wait meanwhile. After too many restarts in a row it raises `ServerDown`, which ends the run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from meteor_agents.backends.sglang_servers.options import LaunchOptions
from meteor_agents.backends.sglang_servers.server import Patience
from meteor_agents.backends.sglang_servers.server_process import Served, ServerProcess, last_lines
from meteor_agents.errors import ServerDown

MOMENT_S = 1.0
"""Time for a process that does not answer to end, if it is about to."""


class LaunchedServer:
    """One server process for `role`, which writes to `log`. `note` receives its starts and crashes.

    Raises `SettingsError` when there is no such Python.
    """

    def __init__(
        self,
        role: str,
        options: LaunchOptions,
        log: Path,
        note: Callable[[str], None],
        patience: Patience | None = None,
    ) -> None:
        self._role = role
        self._options = options
        self._log = log
        self._note = note
        self._patience = patience or Patience()
        self._process = ServerProcess(role, options, log, self._patience)
        self.server = self._process.server
        self._keeper: asyncio.Task[None] | None = None
        self._up = asyncio.Event()
        self._doubted = asyncio.Event()
        self._failure: ServerDown | None = None
        self.serves: Served | None = None
        """The weights that it answers with now, and is started again with."""

    @property
    def running(self) -> bool:
        """Whether it has been started and not stopped. It may be restarting at the moment."""
        return self._keeper is not None

    async def start(self, served: Served) -> None:
        """Serve these weights in a new process. Raises `ServerDown` when it does not come up; no process is left then."""
        await self.stop()
        self._failure = None
        self._doubted.clear()
        self._note(f"starting an SGLang server for {served.version}; log: {self._log}")
        await self._process.start(served)
        self.serves = served
        self._up.set()
        self._keeper = asyncio.create_task(self._keep(), name=f"{self._role}: SGLang server")

    async def up(self) -> None:
        """Returns when the server can be asked. Raises `ServerDown` when it was given up."""
        await self._up.wait()
        if self._failure is not None:
            raise self._failure

    def doubt(self) -> None:
        """A call found no server, or got no answer. `up` holds callers back until it is known what is wrong."""
        if self._failure is None:
            self._up.clear()
            self._doubted.set()

    async def stop(self) -> None:
        """End the process and everything that it started."""
        self._up.clear()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            self._keeper = None
        await self._process.end()

    async def aclose(self) -> None:
        """Stop, and close every connection."""
        await self.stop()
        await self.server.aclose()

    async def _keep(self) -> None:
        try:
            await self._watch()
        except Exception as unexpected:  # without this task, calls that wait for the server would wait forever
            self._give_up(f"cannot be watched: {unexpected!r}")
            raise

    async def _watch(self) -> None:
        crashes = 0
        while self.serves is not None:
            since = time.monotonic()
            what = await self._trouble()
            self._up.clear()
            crashes = 1 if time.monotonic() - since > self._patience.steady_s else crashes + 1
            while not await self._again(what, crashes):
                what, crashes = "did not come up", crashes + 1
            if self._failure is not None:
                return
            self._note(f"the SGLang server answers again, with {self.serves.version}")
            self._up.set()

    async def _trouble(self) -> str:
        """Waits until something is wrong, and returns what, in words."""
        process = self._process
        while True:
            await _first(process.wait(), self._doubted.wait())
            if process.exit_code is None:
                self._doubted.clear()
                _, healthy = await _first(process.wait(), self.server.is_healthy())
                if healthy:
                    self._up.set()
                    continue
                await _first(process.wait(), asyncio.sleep(MOMENT_S))
            ended = process.exit_code is not None
            return f"ended with exit code {process.exit_code}" if ended else "does not answer"

    async def _again(self, what: str, crashes: int) -> bool:
        """Start it again, or give it up. Returns False when it did not come up, so that another try is due."""
        assert self.serves is not None
        await self._process.end()
        if changed := self.serves.changes():
            self._give_up(f"{what}, and is not started again: {changed}, so they are no longer {self.serves.version}")
            return True
        if crashes > self._options.restarts:
            self._give_up(f"{what}, after {crashes - 1} restarts in a row")
            return True
        pause_s = min(self._patience.longest_pause_s, self._patience.first_pause_s * 2 ** (crashes - 1))
        self._note(f"the SGLang server {what}; starting it again in {pause_s:g} s (log: {self._log})")
        await asyncio.sleep(pause_s)
        self._doubted.clear()
        try:
            await self._process.start(self.serves)
        except ServerDown:
            return False
        return True

    def _give_up(self, why: str) -> None:
        self._failure = ServerDown(f"{self._role}: the SGLang server {why}; log: {self._log}\n{last_lines(self._log)}")
        self._up.set()


async def _first(*works: Awaitable[Any]) -> list[Any]:
    """The result of each awaitable, once one of them has one. The others are cancelled, and theirs is None."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    return [task.result() if task.done() and not task.cancelled() else None for task in tasks]
