"""The program of every rank: it waits for an order, trains, gives its memory back, and waits again.

DeepSpeed's launcher starts it as

    python -m meteor_agents.backends.training.ranks.worker --orders FOLDER/orders.jsonl
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from meteor_agents.backends.local.freed_memory import give_back_freed_memory
from meteor_agents.backends.training.work_folder import ProgressTail, WorkFolder
from meteor_agents.errors import MeteorError

PIPE_VARIABLE = "METEOR_TRAINER_PIPE"
"""An environment variable of the first machine's ranks: their standard input is a pipe that the trainer holds open for as
long as it lives."""
POLL_S = 0.02
"""How often rank 0 looks for orders. It passes them on to the other ranks."""
FOR_EVER = timedelta(days=365)
"""Time-out of a wait for orders: ranks without work are not stuck."""


def main() -> None:
    """Take orders until the process is ended, or until a job fails (exit code 1)."""
    if PIPE_VARIABLE in os.environ:  # before the imports below, which take seconds
        threading.Thread(target=_exit_with_the_trainer, daemon=True).start()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=Path, required=True, help="a file with one line for each job: its folder, as JSON")
    parser.add_argument("--local_rank", type=int, default=0, help="given by the launcher")
    take_orders(parser.parse_args().orders)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)  # not by the interpreter's own end: threads that torch still runs may wake up in it, and abort


def _exit_with_the_trainer() -> None:
    """End this process when the trainer is gone, however it went: nobody writes to the pipe, so a read ends only then."""
    while os.read(0, 1):
        pass
    os._exit(1)


def take_orders(orders: Path) -> None:
    """Do every job that is ordered. Returns when one cannot be done.

    Such a job says why in its folder. Its ranks end, because what it left in their memory is not trusted.
    """
    import torch

    from meteor_agents.backends.training.ranks.batching.encoding import Tokenizers
    from meteor_agents.backends.training.ranks.job import train
    from meteor_agents.backends.training.ranks.rank import join_ranks

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
    """The jobs' folders. Rank 0 reads them and tells the others over gloo, where waiting costs no GPU anything."""
    from torch import distributed

    alone = distributed.get_world_size() == 1
    group: Any = None if alone else distributed.new_group(backend="gloo", timeout=FOR_EVER)
    lines = _lines(orders) if distributed.get_rank() == 0 else None
    while True:
        order = [next(lines) if lines is not None else None]
        if not alone:
            distributed.broadcast_object_list(order, src=0, group=group)
        assert order[0] is not None
        yield Path(order[0])


def _lines(orders: Path) -> Iterator[str]:
    tail = ProgressTail(orders)
    while True:
        for record in tail.new_records():
            yield record["order"]
        time.sleep(POLL_S)


if __name__ == "__main__":
    main()
