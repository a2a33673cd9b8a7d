"""Where a rank computes: which one it is among how many, its device and number format."""

from __future__ import annotations

import collections
import os
import random
from dataclasses import dataclass

import deepspeed
import torch

from meteor_agents.backends.local.hardware import pick_dtype
from meteor_agents.training import TrainingSettings


def join_ranks() -> None:
    """Find the other ranks, once in a process."""
    accelerator = deepspeed.accelerator.get_accelerator()
    if accelerator.device_name() == "cpu":
        _skip_operator_builds()
    else:
        accelerator.set_device(_local_rank())
    deepspeed.init_distributed(verbose=False)


def _local_rank() -> int:
    return int(os.environ["LOCAL_RANK"])


def _skip_operator_builds() -> None:
    """DeepSpeed would look for a compiler, and build its shared-memory all-reduce, before the first step on a CPU.

    That takes most of a minute once a machine, and fails where there is no compiler; gloo does the same work.
    """
    deepspeed.ops.__compatible_ops__ = collections.defaultdict(bool)


@dataclass(frozen=True, slots=True)
class Place:
    """Which rank this is, and what it computes on."""

    rank: int
    ranks: int
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of_this_rank(cls, settings: TrainingSettings) -> Place:
        """Seeds are equal on all ranks, so that new adapters are."""
        random.seed(settings.seed)
        torch.manual_seed(settings.seed)
        device = torch.device(deepspeed.accelerator.get_accelerator().device_name(_local_rank()))
        return cls(
            rank=torch.distributed.get_rank(),
            ranks=torch.distributed.get_world_size(),
            device=device,
            dtype=pick_dtype(settings.dtype, device),
        )

    @property
    def accelerator(self) -> bool:
        return self.device.type != "cpu"

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")
