"""Running a program on a pseudo-terminal, as a person does."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from pathlib import Path


def on_terminal(
    *args: str, cwd: Path, columns: int = 100, env: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run `meteor` on a terminal of so many columns that shows no colours. Returns the exit code and what it printed."""
    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "meteor_agents.cli", *args],
        cwd=cwd, env={**environment, "TERM": "dumb", "NO_COLOR": "1", **(env or {})},
        stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    said = bytearray()
    while chunk := _read(mine):
        said += chunk
    os.close(mine)
    return process.wait(timeout=120), said.decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed
        return b""
