"""Where the seconds of a job go."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Clock:
    """Seconds by phase. A process's first job also counts what its start has taken (Linux)."""

    def __init__(self, *, first: bool) -> None:
        self._began = time.perf_counter()
        self.seconds: dict[str, float] = {"imports": _process_age_s() if first else 0.0}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[phase] = round(time.perf_counter() - began, 3)

    def total(self) -> float:
        return round(self.seconds["imports"] + time.perf_counter() - self._began, 3)


def _process_age_s() -> float:
    try:
        started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0.0
    return round(time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK"), 3)
