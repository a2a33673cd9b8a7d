"""A run directory: one run, one process at a time, never started over silently."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

from meteor_agents.errors import StoreError


class RunDirectory:
    """Paths of a run, and the lock that keeps a second process out.

    The lock is the operating system's (flock): it goes with the process, however that ends, so no one has to clear it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database = path / "run.db"
        self.config = path / "config.yaml"
        self.checkpoints = path / "checkpoints"
        self.log = path / "log.jsonl"
        self.report = path / "report.html"
        self._lock: int | None = None

    def set_aside(self) -> Path | None:
        """Move an earlier run out of the way (`--fresh`); where it is now, or None if there was none."""
        if not self.path.exists():
            return None
        with self:
            aside = self.path.with_name(f"{self.path.name}.{time.strftime('%Y%m%d-%H%M%S')}")
            self.path.rename(aside)
        return aside

    def __enter__(self) -> RunDirectory:
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / "run.lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
            self._close()
            raise StoreError(
                f"{self.path} is in use by another meteor (process {owner}); wait for it, or use another --run-dir"
            ) from None
        except OSError as error:
            self._close()
            raise self._unusable(error) from error
        try:
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, str(os.getpid()).encode(), 0)
            self._check_store()
        except OSError as error:
            self._close()
            raise self._unusable(error) from error
        except StoreError:
            self._close()
            raise
        return self

    def _check_store(self) -> None:
        """An empty file would be taken for a new store, and a run would start over without a word."""
        if self.config.exists() and self.database.exists() and self.database.stat().st_size == 0:
            raise StoreError(
                f"{self.database} is empty, though a run was held here: put a copy of it back, or remove the file to "
                "start over beside the checkpoints"
            )

    def _unusable(self, error: OSError) -> StoreError:
        return StoreError(f"{self.path} cannot be used as a run directory: {error.strerror}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
