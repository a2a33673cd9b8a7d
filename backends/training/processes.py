"""DeepSpeed's launcher and its ranks: started once, told about jobs, and ended with this process at the latest."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shlex
import shutil
import signal
import socket
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from meteor_agents import version
from meteor_agents.backends import GOMP_SPINCOUNT
from meteor_agents.backends.local.freed_memory import KEEP_FREED_MEMORY
from meteor_agents.backends.training.config import LOOPBACK
from meteor_agents.backends.training.ranks.worker import PIPE_VARIABLE
from meteor_agents.backends.training.work_folder import WorkFolder
from meteor_agents.errors import SettingsError

GRACE_S = 3.0
"""Seconds between SIGTERM and SIGKILL."""

_KEPT_VARIABLES = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_\w+|TZ|TMPDIR|TEMP|TMP|LD_LIBRARY_PATH|VIRTUAL_ENV|CONDA_PREFIX|HF_HOME"
    r"|CC|CXX|MAX_JOBS|(XDG|CUDA|NVIDIA|NCCL|HIP|ROCR|GLOO|TORCH|PYTORCH|DS|TRITON)_\w+"
)
"""The environment variables that the ranks get: paths, tools and devices, but no keys."""


class TrainingProcesses:
    """The running ranks. They read jobs from a file of orders and write to each job's own work folder.

    `hosts` says how many ranks run on which machine; the first is this one. On the others a launcher is started through
    ssh, and its ranks end when rank 0 is gone.
    """

    def __init__(self, launchers: list[Process], hosts: dict[str, int], orders: Path, log: Path) -> None:
        self._launchers = launchers
        self._orders = orders
        self.hosts = hosts
        self.log = log

    @classmethod
    async def start(cls, python: str, hosts: dict[str, int], folder: Path) -> TrainingProcesses:
        """Start the given number of ranks on each host with that Python. What they print goes to `folder`/trainer.log."""
        orders = await asyncio.to_thread(_empty_orders, folder)
        first, *others = hosts
        environment = _environment(hosts[first], alone=not others)
        world = _world(hosts, environment)
        address = f"{first if others else LOOPBACK}:{_free_port()}"
        commands = [_command(python, orders, world, address, node) for node in range(len(hosts))]
        log = folder / "trainer.log"
        found = cls([], hosts, orders, log)
        try:
            for command in (commands[0], *map(partial(_over_ssh, environment), others, commands[1:])):
                found._launchers.append(await _launch(command, environment, orders.parent, log))
        except BaseException:
            await found.end()
            raise
        return found

    @property
    def running(self) -> bool:
        """Whether every launcher is still there."""
        return all(launcher.returncode is None for launcher in self._launchers)

    def order(self, work: WorkFolder) -> None:
        """Have the job of that folder done. Its progress, and its report or failure, appear there."""
        with self._orders.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"order": str(work.path)}) + "\n")

    async def exited(self, within_s: float) -> bool:
        """Whether a launcher has ended or ends within `within_s` seconds."""
        waits = [asyncio.ensure_future(launcher.wait()) for launcher in self._launchers]
        try:
            done, _ = await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
            return bool(done)
        finally:
            for wait in waits:
                wait.cancel()

    async def end(self) -> int:
        """End all launchers and ranks: SIGTERM, and SIGKILL after `GRACE_S` seconds. Also needed when a launcher has ended,
        because its ranks may outlive it.

        Returns the exit code of the launcher that had ended by itself, else of the first one.
        """
        codes = [launcher.returncode for launcher in self._launchers]
        try:
            if self.running:
                self._signal(signal.SIGTERM)
                async with asyncio.timeout(GRACE_S):
                    await asyncio.gather(*(launcher.wait() for launcher in self._launchers))
        except TimeoutError:
            pass
        finally:
            self._signal(signal.SIGKILL)
            for launcher in self._launchers:
                if launcher.stdin is not None:
                    launcher.stdin.close()
                await launcher.wait()
            shutil.rmtree(self._orders.parent, ignore_errors=True)
        return next((code for code in codes if code is not None), self._launchers[0].returncode or 0) if codes else 0

    def _signal(self, number: signal.Signals) -> None:
        for launcher in self._launchers:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(launcher.pid, number)


async def _launch(command: list[str], environment: dict[str, str], folder: Path, log: Path) -> Process:
    """Start one launcher as the head of a process group. All that it and its ranks print is added to the log."""
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=PIPE,
            stdout=output,
            stderr=STDOUT,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )


def _empty_orders(folder: Path) -> Path:
    """An empty file under a new name, so that the last ranks of a killed run do not read it."""
    home = folder.absolute() / ".trainer"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    return home / f"orders-{os.getpid()}.jsonl"


def _world(hosts: dict[str, int], environment: dict[str, str]) -> str:
    """The devices of each host, encoded as DeepSpeed's launcher reads them."""
    first = next(iter(hosts))
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    devices: dict[str, list[Any]] = {host: list(range(slots)) for host, slots in hosts.items()}
    if visible:
        devices[first] = visible.split(",")
    return base64.urlsafe_b64encode(json.dumps(devices).encode()).decode()


def _command(python: str, orders: Path, world: str, address: str, node: int) -> list[str]:
    """The command line of one node's launcher, as `deepspeed` itself would build it from a hostfile."""
    host, port = address.split(":")
    return [
        *(python, "-m", "deepspeed.launcher.launch", f"--world_info={world}", f"--node_rank={node}"),
        *(f"--master_addr={host}", f"--master_port={port}", "--no_local_rank"),
        *("--module", "meteor_agents.backends.training.ranks.worker", "--orders", str(orders)),
    ]


def _over_ssh(environment: dict[str, str], host: str, command: list[str]) -> list[str]:
    """The same command on another machine, with those environment variables that are not about this machine."""
    passed = {k: v for k, v in environment.items() if k not in _OF_THIS_MACHINE and k != PIPE_VARIABLE}
    assigned = [f"{name}={value}" for name, value in passed.items()]
    return ["ssh", "-o", "BatchMode=yes", host, shlex.join(["env", *assigned, *command])]


_OF_THIS_MACHINE = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TEMP", "TMP", "CUDA_VISIBLE_DEVICES"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _environment(ranks: int, *, alone: bool) -> dict[str, str]:
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
        ours |= {"DS_ACCELERATOR": "cpu"}
    elif visible := kept.get("CUDA_VISIBLE_DEVICES"):
        ours["CUDA_VISIBLE_DEVICES"] = _first_devices(visible, ranks)
    if alone and sys.platform == "linux":
        ours |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    return kept | ours


def _first_devices(visible: str, ranks: int) -> str:
    devices = visible.split(",")
    if len(devices) < ranks:
        raise SettingsError(f"training.processes is {ranks}, but CUDA_VISIBLE_DEVICES names {len(devices)} device(s)")
    return ",".join(devices[:ranks])


def _import_path() -> str:
    """The folder of the running meteor_agents first, then PYTHONPATH."""
    here = str(Path(version.__file__).absolute().parent.parent)
    return os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _certainly_no_accelerator() -> bool:
    """Whether this machine has no GPU, or hides all of them. Known without importing torch, by device nodes."""
    nodes = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists() or Path("/dev/dxg").exists()
    return not nodes or os.environ.get("CUDA_VISIBLE_DEVICES") in {"", "-1"}
