"""The process of one SGLang server: started with its own environment, and ended with everything that it started."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from meteor_agents.backends.sglang_servers import process_watch
from meteor_agents.backends.sglang_servers.checked_weights import CheckedWeights
from meteor_agents.backends.sglang_servers.options import LaunchOptions
from meteor_agents.backends.sglang_servers.server import Patience, SGLangServer
from meteor_agents.backends.weight_state import WeightState
from meteor_agents.errors import ModelError, ServerDown, SettingsError

POLL_S = 0.25
"""Pause between two tries to get a first token."""
LOG_LINES = 15
"""Lines of the log's end in an error."""
LOOPBACK = "127.0.0.1"


class Served(NamedTuple):
    """The weights that a server answers with."""

    model: str
    """A folder, or a name on the Hugging Face hub."""
    version: str
    state: WeightState | None = None
    """The folder's weight files when they were first served; None where changes are not looked for."""

    @classmethod
    def of(cls, weights: CheckedWeights) -> Served:
        """A checkpoint, whose files must not change while it is served."""
        return cls(str(weights.path), weights.version, weights.state)

    def changes(self) -> str | None:
        """What has changed in the files since they were first served, in words; None when nothing has."""
        return self.state.changes() if self.state else None


class ServerProcess:
    """One process at a time that serves for `role` on `server`'s port and writes to `log`.

    Raises `SettingsError` when there is no such Python.
    """

    def __init__(self, role: str, options: LaunchOptions, log: Path, patience: Patience) -> None:
        python = options.python.expanduser()
        if not os.access(python, os.X_OK) or python.is_dir():
            raise SettingsError(f"{role}.launch.python: {python} is not a program; name the Python that has SGLang")
        self._python = python.absolute()  # not resolved: the link of a virtual environment is what makes it one
        self._role = role
        self._options = options
        self._log = log
        self._patience = patience
        self._port = options.port or _free_port()
        self._process: Process | None = None
        self.server = SGLangServer(f"http://{LOOPBACK}:{self._port}", patience=patience)

    @property
    def exit_code(self) -> int | None:
        """How the process ended; None while it runs."""
        return self._running.returncode

    async def wait(self) -> None:
        """Returns when the process has ended."""
        await self._running.wait()

    @property
    def _running(self) -> Process:
        assert self._process is not None, "it has been started"
        return self._process

    async def start(self, served: Served) -> None:
        """Serve these weights. Returns when the server has generated a token with them.

        Raises `ServerDown` when it does not come up, or when the weights have changed since they were first served; no
        process is left then.
        """
        if changed := served.changes():
            raise ServerDown(
                f"{self._role}: the weights {served.version} cannot be served again: {changed}. Put the files back as they "
                "were, or start a new run with the changed ones"
            )
        self._log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._log.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", process_watch.__file__),
                    *self._command(served),
                    stdin=PIPE,
                    stdout=log,
                    stderr=STDOUT,
                    close_fds=True,  # a descriptor of the run's lock would hold it beyond the run
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
            await self.end()
            raise ServerDown(
                f"{self._role}: the SGLang server was not ready within {self._options.ready_timeout_s:g} s "
                f"(launch.ready_timeout_s); log: {self._log}\n{last_lines(self._log)}"
            ) from None
        except OSError as failed:
            raise ServerDown(f"{self._role}: the SGLang server cannot be started: {failed}") from failed
        except ModelError as silent:
            await self.end()
            raise ServerDown(f"{self._role}: the SGLang server that was started does not answer: {silent}") from None
        except BaseException:
            await self.end()
            raise

    def _command(self, served: Served) -> list[str]:
        return [
            *(str(self._python), "-m", "sglang.launch_server", "--model-path", served.model),
            *("--host", LOOPBACK, "--port", str(self._port), "--weight-version", served.version),
            *self._options.flags,
        ]

    def _environment(self) -> dict[str, str]:
        """Our environment variables, with the server's own tools first on the path and without what names our packages."""
        inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
        path = os.pathsep.join(filter(None, [str(self._python.parent), inherited.get("PATH")]))
        return {**inherited, "PATH": path, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", **self._options.environment}

    async def _answers(self, process: Process) -> None:
        """Returns when the server has generated a token. Raises `ServerDown` when the process ends before that."""
        while process.returncode is None:
            with suppress(ModelError):
                await self.server.generate_token()
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await process.wait()
        raise ServerDown(
            f"{self._role}: the SGLang server ended with exit code {process.returncode} while it started; "
            f"log: {self._log}\n{last_lines(self._log)}"
        )

    async def end(self) -> None:
        """Ask the process and all that it started to end (SIGTERM), and kill what is left after `grace_s`."""
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


def _signal_group(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def last_lines(log: Path) -> str:
    """The end of a log; empty when there is none."""
    with suppress(OSError):
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:])
    return ""
