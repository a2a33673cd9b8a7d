"""An SGLang server of our own: started, watched, started again when it crashes, and gone when we are.

1. `start` runs `python -m sglang.launch_server` under `process_watch.py`, in a process group of its own, and waits until
   the server has spoken a token with the weights that it was started for.
2. A keeper task watches the process. When it ends, or when a caller doubts it and it does not answer, what is left of
   the group is killed and the server is started again with the weights that it served, after a pause that doubles.
3. `up` is where callers wait meanwhile. After too many restarts in a row it raises `ServerDown`, which ends the run.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from meteor_agents.backends.sglang_servers import process_watch
from meteor_agents.backends.sglang_servers.options import LaunchOptions
from meteor_agents.backends.sglang_servers.server import Patience, SGLangServer
from meteor_agents.errors import ModelError, ServerDown, SettingsError

POLL_S = 0.25
MOMENT_S = 1.0
"""For a process that does not answer because it is about to end."""
LOG_LINES = 15
"""Of the log in a `ServerDown`."""
LOOPBACK = "127.0.0.1"


class Served(NamedTuple):
    """What a server speaks with."""

    model: str
    """A folder, or a name of the Hugging Face hub."""
    version: str


class LaunchedServer:
    """One server process for `role`, which writes to `log`. `note` hears of its starts and crashes.

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
        python = options.python.expanduser()
        if not os.access(python, os.X_OK) or python.is_dir():
            raise SettingsError(f"{role}.launch.python: {python} is no program; name the Python that has SGLang")
        self._python = python.absolute()  # not resolved: the link of a virtual environment is what makes it one
        self._role = role
        self._options = options
        self._log = log
        self._note = note
        self._patience = patience or Patience()
        self._port = options.port or _free_port()
        self.server = SGLangServer(f"http://{LOOPBACK}:{self._port}", patience=self._patience)
        self._process: Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._up = asyncio.Event()
        self._doubted = asyncio.Event()
        self._failure: ServerDown | None = None
        self.serves: Served | None = None
        """What it speaks with now, and is started again with."""

    @property
    def running(self) -> bool:
        return self._keeper is not None

    async def start(self, served: Served) -> None:
        """Serve these weights in a new process. Raises `ServerDown` when that does not come up; none is left then."""
        await self.stop()
        self._failure = None
        self._note(f"starting an SGLang server for {served.version}; log: {self._log}")
        await self._begin(served)
        self.serves = served
        self._up.set()
        self._keeper = asyncio.create_task(self._keep(), name=f"{self._role}: SGLang server")

    async def up(self) -> None:
        """Returns when the server can be asked. Raises `ServerDown` when it was given up."""
        await self._up.wait()
        if self._failure is not None:
            raise self._failure

    def doubt(self) -> None:
        """A call met no server, or no answer: `up` holds callers back until it is known what is wrong."""
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
        await self._end()

    async def aclose(self) -> None:
        await self.stop()
        await self.server.aclose()

    async def _keep(self) -> None:
        try:
            await self._watch()
        except Exception as unexpected:  # without this task, whoever waits for the server would wait for ever
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
        """Returns what is wrong, when something is."""
        process = self._process
        assert process is not None
        while True:
            await _first(process.wait(), self._doubted.wait())
            if process.returncode is None:
                self._doubted.clear()
                _, healthy = await _first(process.wait(), self.server.is_healthy())
                if healthy:
                    self._up.set()
                    continue
                await _first(process.wait(), asyncio.sleep(MOMENT_S))
            ended = process.returncode is not None
            return f"ended with exit code {process.returncode}" if ended else "does not answer"

    async def _again(self, what: str, crashes: int) -> bool:
        """Start it again, or give it up; whether either is done."""
        assert self.serves is not None
        await self._end()
        if crashes > self._options.restarts:
            self._give_up(f"{what}, after {crashes - 1} restarts in a row")
            return True
        pause_s = min(self._patience.longest_pause_s, self._patience.first_pause_s * 2 ** (crashes - 1))
        self._note(f"the SGLang server {what}; starting it again in {pause_s:g} s (log: {self._log})")
        await asyncio.sleep(pause_s)
        try:
            await self._begin(self.serves)
        except ServerDown:
            return False
        return True

    def _give_up(self, why: str) -> None:
        self._failure = ServerDown(f"{self._role}: the SGLang server {why}; log: {self._log}\n{_last_lines(self._log)}")
        self._up.set()

    async def _begin(self, served: Served) -> None:
        self._doubted.clear()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._log.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", process_watch.__file__),
                    *self._command(served),
                    stdin=PIPE,
                    stdout=log,
                    stderr=STDOUT,
                    env=self._environment(),
                    start_new_session=True,
                )
            async with asyncio.timeout(self._options.ready_timeout_s):
                await self._answers(self._process)
            version = await self.server.weights()
            if version != served.version:
                raise ServerDown(
                    f"{self._role}: another server answers on port {self._port}; leave launch.port out for a free one"
                )
        except TimeoutError:
            await self._end()
            raise ServerDown(
                f"{self._role}: the SGLang server was not ready within {self._options.ready_timeout_s:g} s "
                f"(launch.ready_timeout_s); log: {self._log}\n{_last_lines(self._log)}"
            ) from None
        except OSError as failed:
            raise ServerDown(f"{self._role}: the SGLang server cannot be started: {failed}") from failed
        except ModelError as silent:
            await self._end()
            raise ServerDown(f"{self._role}: the SGLang server that was started does not answer: {silent}") from None
        except BaseException:
            await self._end()
            raise

    def _command(self, served: Served) -> list[str]:
        return [
            *(str(self._python), "-m", "sglang.launch_server", "--model-path", served.model),
            *("--host", LOOPBACK, "--port", str(self._port), "--weight-version", served.version),
            *self._options.flags,
        ]

    def _environment(self) -> dict[str, str]:
        """Ours, with the tools of its own environment first and without what would show it our packages."""
        inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
        path = os.pathsep.join(filter(None, [str(self._python.parent), inherited.get("PATH")]))
        return {**inherited, "PATH": path, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", **self._options.environment}

    async def _answers(self, process: Process) -> None:
        """Returns when it has spoken a token. Raises `ServerDown` when the process ends before."""
        while process.returncode is None:
            with suppress(ModelError):
                await self.server.generate_token()
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await process.wait()
        raise ServerDown(
            f"{self._role}: the SGLang server ended with exit code {process.returncode} while it started; "
            f"log: {self._log}\n{_last_lines(self._log)}"
        )

    async def _end(self) -> None:
        """SIGTERM to the whole group, SIGKILL to what is left of it."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            if process.returncode is None:
                _signal_group(process, signal.SIGTERM)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._patience.grace_s):
                        await process.wait()
        finally:
            _signal_group(process, signal.SIGKILL)
            if process.stdin is not None:
                process.stdin.close()
            await process.wait()


async def _first(*works: Awaitable[Any]) -> list[Any]:
    """The results when one of them has one; None for the others, which are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    return [task.result() if task.done() and not task.cancelled() else None for task in tasks]


def _signal_group(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _last_lines(log: Path) -> str:
    with suppress(OSError):
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:])
    return ""
