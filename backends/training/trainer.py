"""Training in processes of its own, under DeepSpeed's launcher, so that it can neither block nor crash this one."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from meteor_agents.backends.local.freed_memory import give_back_freed_memory
from meteor_agents.backends.training.checkpoint_folder import finish, prepare
from meteor_agents.backends.training.config import read_hostfile
from meteor_agents.backends.training.processes import TrainingProcesses
from meteor_agents.backends.training.work_folder import ProgressTail, WorkFolder
from meteor_agents.errors import MissingExtraError, TrainingError
from meteor_agents.events import Event, TrainingNote, TrainingProgress
from meteor_agents.training import TrainingJob, TrainingReport

POLL_S = 0.05
"""How often the progress file is read."""
LOG_LINES = 15
"""How much of the log a `TrainingError` quotes."""
TRIES = 2
"""How often a job is begun whose processes end without saying why."""

_LAUNCHER_LINE = re.compile(
    r"\[(INFO|WARNING|ERROR)\] \[(launch|runner)\.py|^\s*$|\w+Warning: |^\s+warnings\.warn|\d+%\|"
)
_Result = TypeVar("_Result")


class DeepSpeedTrainer:
    """Does one job after another in processes that stay: DeepSpeed's launcher and its ranks, on GPUs or on CPUs.

    The first job starts them. They are started again after a crash, a failure or a cancelled job, and for a job that wants
    another number of them. A job in which they crash is done again once, from its start checkpoint. They end with `aclose`
    and with this process, however it ends.

    While a job runs, its files are in `.work-<name>` beside the new checkpoint's folder. Its log stays as `<name>.log`;
    everything that the processes print, warnings included, goes to `trainer.log`.

    Raises `MissingExtraError` when DeepSpeed is not installed.
    """

    def __init__(self, *, python: str = sys.executable) -> None:
        if find_spec("deepspeed") is None or find_spec("transformers") is None:
            raise MissingExtraError("the deepspeed training backend", "train")
        self._python = python
        self._processes: TrainingProcesses | None = None

    async def train(self, job: TrainingJob, folder: Path, on_event: Callable[[Event], None]) -> TrainingReport:
        """See `meteor_agents.training.Trainer`.

        When it is cancelled, its processes are gone within `processes.GRACE_S` seconds. A checkpoint that was complete by
        then may still get its name; nothing else is left but the log.
        """
        log = folder.parent / f"{folder.name}.log"
        work = WorkFolder.beside(folder)
        for again in reversed(range(TRIES)):
            try:
                await _to_its_end(prepare, work, folder, job)
                await asyncio.to_thread(give_back_freed_memory)
                await self._do(work, log, job, on_event)
                return await _to_its_end(finish, work, folder, job, log)
            except _Crashed as crash:
                if not again:
                    raise TrainingError(f"{job.name}: {crash}; log: {log}\n{_last_lines(log)}") from crash
                on_event(TrainingNote(job.name, f"{crash}; log: {log}; the whole update is done again"))
            finally:
                shutil.rmtree(work.path, ignore_errors=True)
        raise AssertionError("TRIES is at least 1")

    async def aclose(self) -> None:
        """See `meteor_agents.training.Trainer`."""
        if self._processes is not None:
            processes, self._processes = self._processes, None
            await processes.end()

    async def _do(self, work: WorkFolder, log: Path, job: TrainingJob, on_event: Callable[[Event], None]) -> None:
        """Return when the job is done. Raises what the ranks raised, or `_Crashed`; the ranks are gone then."""
        processes = await self._ready(job, log, on_event)
        said_before = processes.log.stat().st_size
        done = False
        try:
            processes.order(work)
            tail = ProgressTail(work.progress)
            while not done and not await processes.exited(POLL_S):
                done = work.report.is_file()
                for record in await asyncio.to_thread(tail.new_records):
                    on_event(_event(job.name, record))
            if not done:
                await self._fail(work, log)
        finally:
            if not done:
                await self.aclose()
            _copy_from(processes.log, said_before, log)

    async def _ready(self, job: TrainingJob, log: Path, on_event: Callable[[Event], None]) -> TrainingProcesses:
        """The processes that are there, or new ones."""
        file, ranks = job.settings.hostfile, job.settings.processes
        hosts = {"localhost": ranks} if file is None else await asyncio.to_thread(read_hostfile, file)
        if self._processes is None or self._processes.hosts != hosts or not self._processes.running:
            await self.aclose()
            self._processes = await TrainingProcesses.start(self._python, hosts, log.parent)
            where = f" on {len(hosts)} machines" if len(hosts) > 1 else ""
            on_event(TrainingNote(job.name, f"started {ranks} process(es){where}; log: {self._processes.log}"))
        return self._processes

    async def _fail(self, work: WorkFolder, log: Path) -> None:
        """Raise for a job whose processes are gone and left no report."""
        processes, self._processes = self._processes, None
        code = await processes.end() if processes else 0
        failure = await asyncio.to_thread(work.read_failure)
        if failure is not None:
            raise type(failure)(f"{failure}; log: {log}")
        raise _Crashed(f"the trainer ended in the middle of it (exit code {code})")


class _Crashed(Exception):
    """The ranks ended, and none said why."""


async def _to_its_end(write: Callable[..., _Result], *arguments: Any) -> _Result:
    """Run a function that writes files in a thread. When cancelled, wait for its end: a thread cannot be stopped, and what
    it is writing must not be removed under it."""
    writing = asyncio.ensure_future(asyncio.to_thread(write, *arguments))
    cancelled: asyncio.CancelledError | None = None
    while not writing.done():
        try:
            await asyncio.wait({writing})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        writing.exception()  # looked at: the cancellation is what is raised
        raise cancelled
    return writing.result()


def _event(name: str, record: dict[str, Any]) -> Event:
    kind = record.pop("kind")
    return TrainingProgress(name=name, **record) if kind == "step" else TrainingNote(name=name, **record)


def _copy_from(source: Path, offset: int, to: Path) -> None:
    with source.open("rb") as file:
        file.seek(offset)
        to.write_bytes(file.read())


def _last_lines(log: Path) -> str:
    """The end of the log without what the launcher says while it cleans up."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    telling = [line for line in lines if not _LAUNCHER_LINE.search(line)]
    killed = [line for line in lines if re.search(r"exits with return code = -\d+", line)]
    return "\n".join((telling + killed)[-LOG_LINES:])
