"""Runs a command, and ends it with everything that it started when the process that asked for it is gone.

    python process_watch.py COMMAND …

Standard input is a pipe that nobody writes to. Reading it ends when its other end is gone, however that process ended
(kill -9 included). This is started as the leader of a process group, and exits with the command's exit code. It uses the
standard library only and is run by its path, so that it does not depend on what is installed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

GRACE_S = 10.0
"""Seconds from SIGTERM to SIGKILL."""


def main(command: list[str]) -> int:
    """Run the command and return its exit code, or 128 and the number of the signal that ended it."""
    signal.signal(signal.SIGTERM, lambda number, frame: None)  # meant for the command: this waits for its end
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=True)
    caller_is_gone = threading.Event()
    threading.Thread(target=_end_with_the_caller, args=[caller_is_gone], daemon=True).start()
    code = process.wait()
    if caller_is_gone.is_set():
        os.killpg(0, signal.SIGKILL)  # what the command left behind, and this
    return code if code >= 0 else 128 - code


def _end_with_the_caller(caller_is_gone: threading.Event) -> None:
    while os.read(0, 1):
        pass
    caller_is_gone.set()
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE_S)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
