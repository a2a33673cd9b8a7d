"""One rank among the others: its number, its device and number format, and how it finds the other ranks."""

from __future__ import annotations

import collections
import os
import random
import socket
from dataclasses import dataclass

import deepspeed
import torch
from torch.distributed import TCPStore, default_pg_timeout  # type: ignore[attr-defined]  # torch does not list them

from meteor_agents.backends.local.hardware import pick_dtype
from meteor_agents.backends.training.config import LOOPBACK
from meteor_agents.training import TrainingSettings


@dataclass(frozen=True, slots=True)
class Rank:
    """Which rank this process is, and what it computes with."""

    index: int
    """Counted from 0, over all machines."""
    count: int
    device: torch.device
    dtype: torch.dtype
    """The number format of the forward and backward passes. The optimizer's masters are float32."""

    @classmethod
    def of_this_process(cls, settings: TrainingSettings) -> Rank:
        """The rank for one job. Seeds the random generators alike on all ranks, so that new adapters are the same."""
        random.seed(settings.seed)
        torch.manual_seed(settings.seed)
        device = torch.device(deepspeed.accelerator.get_accelerator().device_name(_local_rank()))
        return cls(
            index=torch.distributed.get_rank(),
            count=torch.distributed.get_world_size(),
            device=device,
            dtype=pick_dtype(settings.dtype, device),
        )

    @property
    def has_accelerator(self) -> bool:
        """Whether this rank computes on something other than the CPU."""
        return self.device.type != "cpu"

    @property
    def dtype_name(self) -> str:
        """The name of the type that the model computes in, for example `bfloat16`."""
        return str(self.dtype).removeprefix("torch.")


def join_ranks() -> None:
    """Connect this process with the other ranks. Call it once in a process, before anything else of DeepSpeed.

    On a single machine the ranks meet through the loopback interface only. Otherwise torch opens its store on every
    interface of the first machine, because only the cluster knows which one the others reach it by.
    """
    accelerator = deepspeed.accelerator.get_accelerator()
    if accelerator.device_name() == "cpu":
        _skip_operator_builds()
    else:
        accelerator.set_device(_local_rank())
    if os.environ["MASTER_ADDR"] == LOOPBACK:
        _meet_on_loopback(accelerator.communication_backend_name())
    deepspeed.init_distributed(verbose=False)  # takes over the process group where there is one


def _meet_on_loopback(backend: str) -> None:
    """Open torch's process group over a store that listens on loopback; by itself torch opens it on all interfaces."""
    port, count, first = int(os.environ["MASTER_PORT"]), int(os.environ["WORLD_SIZE"]), os.environ["RANK"] == "0"
    listening = socket.create_server((LOOPBACK, port), backlog=128).detach() if first else None
    store = TCPStore(
        LOOPBACK, port, count, is_master=first, timeout=default_pg_timeout, multi_tenant=True, master_listen_fd=listening
    )
    torch.distributed.init_process_group(
        backend,
        timeout=default_pg_timeout,
        store=store,
        rank=int(os.environ["RANK"]),
        world_size=count,
        device_id=torch.device("cuda", _local_rank()) if backend == "nccl" and count > 1 else None,
    )


def _local_rank() -> int:
    return int(os.environ["LOCAL_RANK"])


def _skip_operator_builds() -> None:
    """Keep DeepSpeed from building its shared-memory all-reduce before the first step on a CPU.

    The build takes most of a minute once a machine, and fails where there is no compiler; gloo does the same work.
    """
    deepspeed.ops.__compatible_ops__ = collections.defaultdict(bool)
