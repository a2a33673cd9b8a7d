"""Training in processes of its own, under DeepSpeed's launcher: nothing here waits, swells or crashes with it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import meteor_agents
from meteor_agents.backends import GOMP_SPINCOUNT
from meteor_agents.backends.checkpoint_folder import missing_parts, publish
from meteor_agents.backends.deepspeed_config import load_config
from meteor_agents.backends.freed_memory import KEEP_FREED_MEMORY, give_back_freed_memory
from meteor_agents.backends.training_worker import PIPE_VARIABLE
from meteor_agents.backends.work_folder import ProgressTail, WorkFolder
from meteor_agents.errors import MissingExtraError, NothingToTrainError, SettingsError, TrainingError
from meteor_agents.events import Event, TrainingNote, TrainingProgress
from meteor_agents.training import TrainingJob, TrainingReport

POLL_S = 0.2
"""Between two looks at the progress file."""
GRACE_S = 3.0
"""From SIGTERM to SIGKILL."""
LOG_LINES = 15
"""Of the log in a `TrainingError`."""

_KEPT_VARIABLES = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_\w+|TZ|TMPDIR|TEMP|TMP|LD_LIBRARY_PATH|VIRTUAL_ENV|CONDA_PREFIX|HF_HOME"
    r"|CC|CXX|MAX_JOBS|(XDG|CUDA|NVIDIA|NCCL|HIP|ROCR|GLOO|TORCH|PYTORCH|DS|TRITON)_\w+"
)
"""What the worker processes get of our environment: tools and devices, and no keys."""

_LAUNCHER_LINE = re.compile(
    r"\[(INFO|WARNING|ERROR)\] \[(launch|runner)\.py|^\s*$|\w+Warning: |^\s+warnings\.warn|\d+%\|"
)

_NOTHING_TO_TRAIN = re.compile(rf"^{NothingToTrainError.__name__}: (.*)$", re.MULTILINE)
"""What the worker says last when it raises that."""


class DeepSpeedTrainer:
    """Runs each job under the DeepSpeed launcher of this interpreter, on GPUs or on CPU processes (over gloo).

    A job's files live in `.work-<name>` beside the new checkpoint's folder while it runs; its log stays there as
    `<name>.log`. The processes end with `train`, however it ends, and with this process, however that ends.
    Raises `MissingExtraError` when DeepSpeed is not installed.
    """

    def __init__(self, *, python: str = sys.executable) -> None:
        if find_spec("deepspeed") is None or find_spec("transformers") is None:
            raise MissingExtraError("the deepspeed training backend", "train")
        self._python = python

    async def train(self, job: TrainingJob, folder: Path, on_event: Callable[[Event], None]) -> TrainingReport:
        """See `meteor_agents.training.Trainer`."""
        work = await asyncio.to_thread(_prepare, folder, job)
        log = folder.parent / f"{folder.name}.log"
        try:
            await asyncio.to_thread(give_back_freed_memory)
            on_event(TrainingNote(job.name, f"started {job.settings.processes} process(es); log: {log}"))
            code = await self._run(work, log, job, on_event)
            return await asyncio.to_thread(_finish, work, folder, job, code, log)
        finally:
            shutil.rmtree(work.path, ignore_errors=True)

    async def _run(self, work: WorkFolder, log: Path, job: TrainingJob, on_event: Callable[[Event], None]) -> int:
        """The launcher's exit code, when all its processes are gone."""
        tail = ProgressTail(work.progress)
        ranks = job.settings.processes
        environment = _environment(ranks)
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *_command(self._python, work, ranks, environment),
                stdin=PIPE,
                stdout=output,
                stderr=STDOUT,
                cwd=work.path,
                env=environment,
                start_new_session=True,
            )
        try:
            running = True
            while running:
                running = not await _exited(process, POLL_S)
                for record in await asyncio.to_thread(tail.new_records):
                    on_event(_event(job.name, record))
        finally:
            await _end(process)
        return await process.wait()


def _prepare(folder: Path, job: TrainingJob) -> WorkFolder:
    config = load_config(job.settings.config)
    if folder.exists():
        raise TrainingError(f"{job.name}: {folder} exists already; a checkpoint is never overwritten")
    missing = missing_parts(job.start.path)
    if missing:
        raise TrainingError(f"{job.name}: the start checkpoint {job.start.path} lacks {', '.join(missing)}")
    work = WorkFolder(folder.absolute().parent / f".work-{folder.name}")
    shutil.rmtree(work.path, ignore_errors=True)  # left by a run that was killed
    work.write(job, config)
    return work


def _command(python: str, work: WorkFolder, ranks: int, environment: dict[str, str]) -> list[str]:
    """`deepspeed --module …`; without --num_gpus the launcher takes the visible devices."""
    return [
        *(python, "-m", "deepspeed.launcher.runner"),
        *("--hostfile", str(work.path / "no-hostfile")),
        *(() if environment.get("CUDA_VISIBLE_DEVICES") else ("--num_gpus", str(ranks))),
        *("--master_addr", "127.0.0.1", "--master_port", str(_free_port()), "--no_local_rank"),
        *("--module", "meteor_agents.backends.training_worker", "--job", str(work.job)),
    ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment(ranks: int) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if _KEPT_VARIABLES.fullmatch(name)}
    threads = max(1, _usable_cpus() // ranks)
    ours = {
        "PYTHONPATH": _import_path(),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "OMP_NUM_THREADS": str(threads),
        "GOMP_SPINCOUNT": GOMP_SPINCOUNT,
        "GLIBC_TUNABLES": KEEP_FREED_MEMORY,
        PIPE_VARIABLE: "1",
    }
    if _certainly_no_accelerator():
        kept.pop("CUDA_VISIBLE_DEVICES", None)
        ours |= {"DS_ACCELERATOR": "cpu"} | ({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {})
    elif visible := kept.get("CUDA_VISIBLE_DEVICES"):
        ours["CUDA_VISIBLE_DEVICES"] = _first_devices(visible, ranks)
    return kept | ours


def _first_devices(visible: str, ranks: int) -> str:
    devices = visible.split(",")
    if len(devices) < ranks:
        raise SettingsError(f"training.processes is {ranks}, but CUDA_VISIBLE_DEVICES names {len(devices)} device(s)")
    return ",".join(devices[:ranks])


def _import_path() -> str:
    """The meteor_agents that runs here, then what we were told to import from."""
    here = str(Path(meteor_agents.__file__).absolute().parent.parent)
    return os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _certainly_no_accelerator() -> bool:
    """Known without importing torch: no device node of NVIDIA, ROCm or WSL, or all hidden."""
    nodes = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists() or Path("/dev/dxg").exists()
    return not nodes or os.environ.get("CUDA_VISIBLE_DEVICES") in {"", "-1"}


async def _exited(process: Process, within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            await process.wait()
    except TimeoutError:
        return False
    return True


async def _end(process: Process) -> None:
    """All processes of the launcher's group, gracefully first; when it failed, its ranks may outlive it."""
    try:
        if process.returncode is None:
            _signal_group(process, signal.SIGTERM)
            await _exited(process, GRACE_S)
    finally:
        _signal_group(process, signal.SIGKILL)
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()


def _signal_group(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _event(name: str, record: dict[str, Any]) -> Event:
    kind = record.pop("kind")
    return TrainingProgress(name=name, **record) if kind == "step" else TrainingNote(name=name, **record)


def _finish(work: WorkFolder, folder: Path, job: TrainingJob, code: int, log: Path) -> TrainingReport:
    if code != 0 or not work.report.is_file():
        if nothing := _NOTHING_TO_TRAIN.search(log.read_text(encoding="utf-8", errors="replace")):
            raise NothingToTrainError(f"{nothing[1]}; log: {log}")
        raise TrainingError(f"{job.name}: training failed (exit code {code}); log: {log}\n{_last_lines(log)}")
    missing = missing_parts(work.checkpoint)
    if missing:
        raise TrainingError(f"{job.name}: the new checkpoint lacks {', '.join(missing)}; log: {log}")
    publish(work.checkpoint, folder)
    return TrainingReport.model_validate_json(work.report.read_text(encoding="utf-8"))


def _last_lines(log: Path) -> str:
    """The end of the log without what the launcher says while it cleans up."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    telling = [line for line in lines if not _LAUNCHER_LINE.search(line)]
    killed = [line for line in lines if re.search(r"exits with return code = -\d+", line)]
    return "\n".join((telling + killed)[-LOG_LINES:])
