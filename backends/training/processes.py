"""DeepSpeed's launcher and its ranks, which stay for one job after another, and go when they are ended or we are gone."""

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
from meteor_agents.backends.training.ranks.worker import PIPE_VARIABLE
from meteor_agents.backends.training.work_folder import WorkFolder
from meteor_agents.errors import SettingsError

GRACE_S = 3.0
"""From SIGTERM to SIGKILL."""

_KEPT_VARIABLES = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_\w+|TZ|TMPDIR|TEMP|TMP|LD_LIBRARY_PATH|VIRTUAL_ENV|CONDA_PREFIX|HF_HOME"
    r"|CC|CXX|MAX_JOBS|(XDG|CUDA|NVIDIA|NCCL|HIP|ROCR|GLOO|TORCH|PYTORCH|DS|TRITON)_\w+"
)
"""What the worker processes get of our environment: tools and devices, and no keys."""


class TrainingProcesses:
    """So many ranks, by host. They read jobs from a file of orders and write into each job's own folder.

    The first host is this machine. On the others a launcher is started through ssh; its ranks end when rank 0 is gone.
    """

    def __init__(self, launchers: list[Process], hosts: dict[str, int], orders: Path, log: Path) -> None:
        self._launchers = launchers
        self._orders = orders
        self.hosts = hosts
        self.log = log

    @classmethod
    async def start(cls, python: str, hosts: dict[str, int], folder: Path) -> TrainingProcesses:
        """Their log is `folder`/trainer.log."""
        orders = await asyncio.to_thread(_empty_orders, folder)
        first, *others = hosts
        environment = _environment(hosts[first], alone=not others)
        world = _world(hosts, environment)
        address = f"{first if others else '127.0.0.1'}:{_free_port()}"
        commands = [_command(python, orders, world, address, node) for node in range(len(hosts))]
        log = folder / "trainer.log"
        found = cls([], hosts, orders, log)
        with log.open("ab") as output:
            for command in (commands[0], *map(partial(_over_ssh, environment), others, commands[1:])):
                launcher = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=PIPE,
                    stdout=output,
                    stderr=STDOUT,
                    cwd=orders.parent,
                    env=environment,
                    start_new_session=True,
                )
                found._launchers.append(launcher)
        return found

    @property
    def running(self) -> bool:
        return all(launcher.returncode is None for launcher in self._launchers)

    def order(self, work: WorkFolder) -> None:
        """Have this job done; what comes of it is written to its folder."""
        with self._orders.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"order": str(work.path)}) + "\n")

    async def exited(self, within_s: float) -> bool:
        """Whether a launcher has ended by then."""
        waits = [asyncio.ensure_future(launcher.wait()) for launcher in self._launchers]
        try:
            done, _ = await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
            return bool(done)
        finally:
            for wait in waits:
                wait.cancel()

    async def end(self) -> int:
        """All processes of the launchers' groups, gracefully first; when one failed, its ranks may outlive it.

        Returns the first launcher's exit code, or that of another which had ended.
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
        return next((code for code in codes if code is not None), self._launchers[0].returncode or 0)

    def _signal(self, number: signal.Signals) -> None:
        for launcher in self._launchers:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(launcher.pid, number)


def _empty_orders(folder: Path) -> Path:
    """One that no rank of a killed run, in its last moments, would read."""
    home = folder.absolute() / ".trainer"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    return home / f"orders-{os.getpid()}.jsonl"


def _world(hosts: dict[str, int], environment: dict[str, str]) -> str:
    """Which devices of which host, as DeepSpeed's launcher reads it."""
    first = next(iter(hosts))
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    devices: dict[str, list[Any]] = {host: list(range(slots)) for host, slots in hosts.items()}
    if visible:
        devices[first] = visible.split(",")
    return base64.urlsafe_b64encode(json.dumps(devices).encode()).decode()


def _command(python: str, orders: Path, world: str, address: str, node: int) -> list[str]:
    """The launcher of one node, as `deepspeed` itself would start it after reading its hostfile."""
    host, port = address.split(":")
    return [
        *(python, "-m", "deepspeed.launcher.launch", f"--world_info={world}", f"--node_rank={node}"),
        *(f"--master_addr={host}", f"--master_port={port}", "--no_local_rank"),
        *("--module", "meteor_agents.backends.training.ranks.worker", "--orders", str(orders)),
    ]


def _over_ssh(environment: dict[str, str], host: str, command: list[str]) -> list[str]:
    """The same on another machine, with what of our environment is not about this one."""
    passed = {k: v for k, v in environment.items() if k not in _OF_THIS_MACHINE and k != PIPE_VARIABLE}
    assigned = [f"{name}={value}" for name, value in passed.items()]
    return ["ssh", "-o", "BatchMode=yes", host, shlex.join(["env", *assigned, *command])]


_OF_THIS_MACHINE = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TEMP", "TMP", "CUDA_VISIBLE_DEVICES"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
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
        ours |= {"DS_ACCELERATOR": "cpu"} | ({"GLOO_SOCKET_IFNAME": "lo"} if alone and sys.platform == "linux" else {})
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
    here = str(Path(version.__file__).absolute().parent.parent)
    return os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _certainly_no_accelerator() -> bool:
    """Known without importing torch: no device node of NVIDIA, ROCm or WSL, or all hidden."""
    nodes = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists() or Path("/dev/dxg").exists()
    return not nodes or os.environ.get("CUDA_VISIBLE_DEVICES") in {"", "-1"}
