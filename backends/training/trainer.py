"""Training in processes of its own, under DeepSpeed's launcher: nothing here waits, swells or crashes with it."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from meteor_agents.backends.local.freed_memory import give_back_freed_memory
from meteor_agents.backends.training.checkpoint_folder import publish
from meteor_agents.backends.training.config import load_config
from meteor_agents.backends.training.hostfile import read_hostfile
from meteor_agents.backends.training.processes import TrainingProcesses
from meteor_agents.backends.training.work_folder import ProgressTail, WorkFolder
from meteor_agents.errors import MissingExtraError, TrainingError
from meteor_agents.events import Event, TrainingNote, TrainingProgress
from meteor_agents.training import TrainingJob, TrainingReport, optimizer_beside
from meteor_agents.weight_files import damaged_weights, missing_parts

POLL_S = 0.05
"""Between two looks at the progress file."""
LOG_LINES = 15
"""Of the log in a `TrainingError`."""
TRIES = 2
"""How often a job is begun whose processes ended without a word."""

_LAUNCHER_LINE = re.compile(
    r"\[(INFO|WARNING|ERROR)\] \[(launch|runner)\.py|^\s*$|\w+Warning: |^\s+warnings\.warn|\d+%\|"
)


class DeepSpeedTrainer:
    """One job after another in processes that stay: DeepSpeed's launcher and its ranks, on GPUs or on CPUs (over gloo).

    They are started by the first job, and again after a crash, a failure, a cancelled job, or when a job wants another
    number of them. A job that they crashed in is done again, once, from its start checkpoint. They end with `aclose` and
    with this process, however that ends. A job's files live in `.work-<name>` beside the new checkpoint's folder while it
    runs; its log stays there as `<name>.log`, and what the processes say between jobs in `trainer.log`.
    Raises `MissingExtraError` when DeepSpeed is not installed.
    """

    def __init__(self, *, python: str = sys.executable) -> None:
        if find_spec("deepspeed") is None or find_spec("transformers") is None:
            raise MissingExtraError("the deepspeed training backend", "train")
        self._python = python
        self._processes: TrainingProcesses | None = None

    async def train(self, job: TrainingJob, folder: Path, on_event: Callable[[Event], None]) -> TrainingReport:
        """See `meteor_agents.training.Trainer`."""
        log = folder.parent / f"{folder.name}.log"
        for again in reversed(range(TRIES)):
            work = await asyncio.to_thread(_prepare, folder, job)
            try:
                await asyncio.to_thread(give_back_freed_memory)
                await self._do(work, log, job, on_event)
                return await asyncio.to_thread(_finish, work, folder, job, log)
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
        """Returns when the job is done. Raises what the ranks raised, or `_Crashed`; then they are gone."""
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
            await asyncio.to_thread(_copy_from, processes.log, said_before, log)

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
        """Of a job whose processes are gone without a report."""
        processes, self._processes = self._processes, None
        code = await processes.end() if processes else 0
        failure = await asyncio.to_thread(work.read_failure)
        if failure is not None:
            raise type(failure)(f"{failure}; log: {log}")
        raise _Crashed(f"the trainer ended in the middle of it (exit code {code})")


class _Crashed(Exception):
    """The ranks ended, and none said why."""


def _prepare(folder: Path, job: TrainingJob) -> WorkFolder:
    config = load_config(job.settings.config)
    if folder.exists():
        raise TrainingError(f"{job.name}: {folder} exists already; a checkpoint is never overwritten")
    missing = missing_parts(job.start.path)
    if missing:
        raise TrainingError(f"{job.name}: the start checkpoint {job.start.path} lacks {', '.join(missing)}")
    if job.carries_optimizer:
        _check_optimizer(job, optimizer_beside(job.start.path))
    work = WorkFolder(folder.absolute().parent / f".work-{folder.name}")
    shutil.rmtree(work.path, ignore_errors=True)  # left by a run that was killed
    work.write(job, config)
    return work


def _check_optimizer(job: TrainingJob, folder: Path) -> None:
    trouble = damaged_weights(folder) if folder.is_dir() else "it is missing"
    if trouble:
        raise TrainingError(
            f"{job.name}: the optimizer state {folder}, from which this update goes on: {trouble}; put it back, or begin "
            "each update with a fresh optimizer: refine.training.optimizer_state: reset"
        )


def _event(name: str, record: dict[str, Any]) -> Event:
    kind = record.pop("kind")
    return TrainingProgress(name=name, **record) if kind == "step" else TrainingNote(name=name, **record)


def _finish(work: WorkFolder, folder: Path, job: TrainingJob, log: Path) -> TrainingReport:
    missing = missing_parts(work.checkpoint)
    if missing:
        raise TrainingError(f"{job.name}: the new checkpoint lacks {', '.join(missing)}; log: {log}")
    if job.keeps_optimizer:
        shutil.rmtree(
            optimizer_beside(folder), ignore_errors=True
        )  # left by a run that was killed before the next line
        work.optimizer.rename(optimizer_beside(folder))
    publish(work.checkpoint, folder)
    return TrainingReport.model_validate_json(work.report.read_text(encoding="utf-8"))


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
