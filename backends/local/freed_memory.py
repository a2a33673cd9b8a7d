"""What happens to memory that a process has freed. These are settings of glibc; other C libraries ignore them."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

KEEP_FREED_MEMORY = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {"mmap_threshold": 1 << 32, "trim_threshold": 1 << 33, "arena_max": 1, "hugetlb": 1}.items()
)
"""The value of GLIBC_TUNABLES for training on a CPU. Each step allocates what the last one freed. By default, glibc returns
that memory to the kernel between steps, which then has to zero gigabytes of pages again: a large part of a step's time."""


def give_back_freed_memory() -> None:
    """Return freed memory to the kernel, for other processes and for cached files. By itself a process keeps much of it."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def forget_peak_memory() -> None:
    """Reset the peak memory that the kernel records for this process to what it uses now (Linux only)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
