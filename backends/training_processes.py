"""DeepSpeed's launcher and its ranks, which stay for one job after another, and go when they are ended or we are gone."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import signal
import socket
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from contextlib import suppress
from pathlib import Path

import meteor_agents
from meteor_agents.backends import GOMP_SPINCOUNT
from meteor_agents.backends.freed_memory import KEEP_FREED_MEMORY
from meteor_agents.backends.training_worker import PIPE_VARIABLE
from meteor_agents.backends.work_folder import WorkFolder
from meteor_agents.errors import SettingsError

GRACE_S = 3.0
"""From SIGTERM to SIGKILL."""

_KEPT_VARIABLES = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_\w+|TZ|TMPDIR|TEMP|TMP|LD_LIBRARY_PATH|VIRTUAL_ENV|CONDA_PREFIX|HF_HOME"
    r"|CC|CXX|MAX_JOBS|(XDG|CUDA|NVIDIA|NCCL|HIP|ROCR|GLOO|TORCH|PYTORCH|DS|TRITON)_\w+"
)
"""What the worker processes get of our environment: tools and devices, and no keys."""


class TrainingProcesses:
    """So many ranks on this machine. They read jobs from a file of orders and write into each job's own folder."""

    def __init__(self, process: Process, ranks: int, orders: Path, log: Path) -> None:
        self._process = process
        self._orders = orders
        self.ranks = ranks
        self.log = log

    @classmethod
    async def start(cls, python: str, ranks: int, folder: Path) -> TrainingProcesses:
        """Their log is `folder`/trainer.log."""
        orders = await asyncio.to_thread(_empty_orders, folder)
        environment = _environment(ranks)
        log = folder / "trainer.log"
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *_command(python, orders, ranks, environment),
                stdin=PIPE,
                stdout=output,
                stderr=STDOUT,
                cwd=orders.parent,
                env=environment,
                start_new_session=True,
            )
        return cls(process, ranks, orders, log)

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    def order(self, work: WorkFolder) -> None:
        """Have this job done; what comes of it is written to its folder."""
        with self._orders.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"order": str(work.path)}) + "\n")

    async def exited(self, within_s: float) -> bool:
        try:
            async with asyncio.timeout(within_s):
                await self._process.wait()
        except TimeoutError:
            return False
        return True

    async def end(self) -> int:
        """All processes of the launcher's group, gracefully first; when it failed, its ranks may outlive it."""
        try:
            if self.running:
                self._signal(signal.SIGTERM)
                await self.exited(GRACE_S)
        finally:
            self._signal(signal.SIGKILL)
            if self._process.stdin is not None:
                self._process.stdin.close()
            await self._process.wait()
            shutil.rmtree(self._orders.parent, ignore_errors=True)
        return self._process.returncode or 0

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def _empty_orders(folder: Path) -> Path:
    home = folder.absolute() / f".trainer-{os.getpid()}"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    return home / "orders.jsonl"


def _command(python: str, orders: Path, ranks: int, environment: dict[str, str]) -> list[str]:
    """The launcher of one node, as `deepspeed` itself would start it after reading its hostfile."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else list(range(ranks))
    world = base64.urlsafe_b64encode(json.dumps({"localhost": devices}).encode()).decode()
    return [
        *(python, "-m", "deepspeed.launcher.launch", f"--world_info={world}", "--node_rank=0"),
        *("--master_addr=127.0.0.1", f"--master_port={_free_port()}", "--no_local_rank"),
        *("--module", "meteor_agents.backends.training_worker", "--orders", str(orders)),
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
