"""The program that every rank of a training job runs, under DeepSpeed's launcher.

deepspeed --module meteor_agents.backends.training_worker --job WORK/job.json
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from pathlib import Path

from meteor_agents.backends.work_folder import WorkFolder
from meteor_agents.errors import MeteorError

PIPE_VARIABLE = "METEOR_TRAINER_PIPE"
"""Set by the trainer: standard input is a pipe that it holds open for as long as it lives."""


def main() -> None:
    if PIPE_VARIABLE in os.environ:
        threading.Thread(target=_exit_with_the_trainer, daemon=True).start()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=Path, required=True)
    parser.add_argument("--local_rank", type=int, default=0, help="given by the launcher")
    work = WorkFolder(parser.parse_args().job.parent)

    from meteor_agents.backends.training_run import train  # seconds of imports: the pipe is watched before

    try:
        train(work)
    except MeteorError as failure:
        print(f"{type(failure).__name__}: {failure}", file=sys.stderr)
        raise SystemExit(1) from None
    _leave()


def _leave() -> None:
    """End here, with everything written: the interpreter's own end would meet the threads that torch still runs.

    Now and then one of them wakes up in it and aborts the process ("terminate called without an active exception"),
    and the launcher reports a job as failed that is done.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _exit_with_the_trainer() -> None:
    """Nobody writes to the pipe: a read ends when the trainer is gone, however it went."""
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
