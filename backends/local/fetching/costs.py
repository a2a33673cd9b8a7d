"""What a fetch costs in download, disk and time, and whether the disk has room for it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from meteor_agents.errors import UsageError

LINE_BYTES_PER_S = 12_500_000
"""The line that times are told for: 100 Mbit/s."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The bytes that a fetch moves and keeps."""

    download: int
    """Bytes still to download."""
    kept: int
    """Bytes on disk when all is done."""
    peak: int
    """Bytes still to be written to disk until the moment when most of it is in use."""

    def sentence(self, name: str, folder: Path) -> str:
        """The cost in words, with the room that is left where `folder` is."""
        minutes = max(1, round(self.download / LINE_BYTES_PER_S / 60))
        time = f" (about {minutes} min at 100 Mbit/s)" if self.download else ""
        return (
            f"{name}: {size(self.download)} to download{time}; {size(self.kept)} on disk when done, "
            f"up to {size(self.peak)} more while it works; {size(free_bytes(folder))} are free"
        )

    def check_room(self, name: str, folder: Path) -> None:
        """Raise `UsageError` if the disk of `folder` has not the room."""
        free = free_bytes(folder)
        if free < self.peak:
            raise UsageError(
                f"{name} needs {size(self.peak)} of disk in {folder}, and {size(free)} are free. Free some space, or set "
                "METEOR_CACHE to a folder on another disk"
            )


def free_bytes(folder: Path) -> int:
    """Bytes that can still be written to the disk of a folder, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def size(count: int) -> str:
    """A number of bytes in words.

    >>> size(491_400_064), size(3_098_928_675), size(297)
    ('491 MB', '3.10 GB', '1 kB')
    """
    if count >= 1e9:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{-(-count // 1000)} kB"
