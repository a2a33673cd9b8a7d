"""What becomes of memory that was freed: glibc's choices, made for training on a CPU. Other C libraries ignore them."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

KEEP_FREED_MEMORY = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {"mmap_threshold": 1 << 32, "trim_threshold": 1 << 33, "arena_max": 1, "hugetlb": 1}.items()
)
"""Each step allocates what the last one freed. Left alone, glibc gives it back to the kernel between them, which then
fills gigabytes of pages with zeros again: much of a step's time on a CPU."""


def give_back_freed_memory() -> None:
    """To the kernel, for others or for files: a process keeps much of what it has freed."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def forget_peak_memory() -> None:
    """The process's peak, as the kernel keeps it, starts anew from what is taken now (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
