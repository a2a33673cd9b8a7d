"""One rank between jobs: it waits for an order, trains, gives its memory back, and waits again."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from meteor_agents.backends.local.freed_memory import give_back_freed_memory
from meteor_agents.backends.training.ranks.job import train
from meteor_agents.backends.training.ranks.place import join_ranks
from meteor_agents.backends.training.ranks.tokenizers_kept import Tokenizers
from meteor_agents.backends.training.work_folder import ProgressTail, WorkFolder
from meteor_agents.errors import MeteorError

POLL_S = 0.02
"""Between two looks at the orders, by rank 0; the others are told."""
FOR_EVER = timedelta(days=365)
"""Ranks that wait for an order are not stuck."""


def take_orders(orders: Path) -> None:
    """Every job that is ordered, until the process is ended. Returns when one could not be done.

    Such a job says why in its folder, and ends the ranks: what it left of itself in them is not trusted.
    """
    join_ranks()
    tokenizers = Tokenizers()
    for number, folder in enumerate(_ordered(orders)):
        work = WorkFolder(folder)
        try:
            train(work, tokenizers, first=number == 0)
        except MeteorError as failure:
            print(f"{type(failure).__name__}: {failure}", file=sys.stderr)
            work.write_failure(failure)
            return
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        give_back_freed_memory()


def _ordered(orders: Path) -> Iterator[Path]:
    """The jobs' folders. Rank 0 reads them; over gloo also beside GPUs, because waiting there costs nothing."""
    alone = torch.distributed.get_world_size() == 1
    group: Any = None if alone else torch.distributed.new_group(backend="gloo", timeout=FOR_EVER)
    lines = _lines(orders) if torch.distributed.get_rank() == 0 else None
    while True:
        order = [next(lines) if lines is not None else None]
        if not alone:
            torch.distributed.broadcast_object_list(order, src=0, group=group)
        assert order[0] is not None
        yield Path(order[0])


def _lines(orders: Path) -> Iterator[str]:
    tail = ProgressTail(orders)
    while True:
        for record in tail.new_records():
            yield record["order"]
        time.sleep(POLL_S)
