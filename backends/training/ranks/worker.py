"""The program that every rank of a resident trainer runs, under DeepSpeed's launcher.

deepspeed --module meteor_agents.backends.training.ranks.worker --orders FOLDER/orders.jsonl
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from pathlib import Path

PIPE_VARIABLE = "METEOR_TRAINER_PIPE"
"""Set by the trainer: standard input is a pipe that it holds open for as long as it lives."""


def main() -> None:
    if PIPE_VARIABLE in os.environ:
        threading.Thread(target=_exit_with_the_trainer, daemon=True).start()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=Path, required=True, help="a line for each job: its folder, as JSON")
    parser.add_argument("--local_rank", type=int, default=0, help="given by the launcher")
    orders = parser.parse_args().orders

    from meteor_agents.backends.training.ranks.rank import take_orders  # seconds of imports: the pipe is watched before

    take_orders(orders)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)  # not by the interpreter's own end: threads that torch still runs may wake up in it, and abort


def _exit_with_the_trainer() -> None:
    """Nobody writes to the pipe: a read ends when the trainer is gone, however it went."""
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
