"""Whether the weight files of a folder are still the ones that were loaded. Importing this imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class WeightState:
    """The weight files of a folder as they were at one moment.

    Sizes and times of change are compared, not contents: a file that is written over by a program that keeps both is not
    noticed. Moving the folder away and back changes neither.
    """

    folder: Path
    files: dict[str, tuple[int, int]]
    """Name -> (bytes, nanoseconds of the last change)."""

    @classmethod
    def of(cls, folder: Path) -> WeightState:
        """The state now. A folder that is not there has no files."""
        return cls(folder, _files(folder))

    def changes(self) -> str | None:
        """What has changed since, in words; None when nothing has, or when the folder is not there at the moment."""
        now = _files(self.folder)
        if now and now != self.files:
            names = sorted(name for name in {*now, *self.files} if now.get(name) != self.files.get(name))
            return f"{', '.join(names)} in {self.folder} changed after being loaded"
        return None


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for file in sorted(folder.glob("*.safetensors*")):
        stat = file.stat()
        found[file.name] = (stat.st_size, stat.st_mtime_ns)
    return found
