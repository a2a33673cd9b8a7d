"""A run directory: one run, one process at a time, never started over silently."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import struct
import sys
import time
from pathlib import Path
from types import TracebackType

from meteor_agents.errors import StoreError
from meteor_agents.store.database import open_read_only
from meteor_agents.store.schema import is_empty


class RunDirectory:
    """The paths of a run, and the lock that keeps a second process out.

    As a context manager it makes the folder and holds the lock. Raises `StoreError` when the folder cannot be used, when
    another process holds it, and when a run was held here whose store is gone.

    The lock belongs to the process, and ends with it however it ends. A child that the process has forked does not hold
    it on (`fcntl.lockf`, unlike `flock`). What is made here can be read by its owner only, whatever the umask.
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
        """Rename the folder of an earlier run (`--fresh`). Returns its new path, or None if there was none.

        Raises `StoreError` while another process works there.
        """
        if not self.path.exists():
            return None
        self._hold()
        try:
            aside = self.path.with_name(f"{self.path.name}.{time.strftime('%Y%m%d-%H%M%S')}")
            self.path.rename(aside)
        except OSError as error:
            raise self._unusable(error) from error
        finally:
            self._close()
        return aside

    def in_use(self) -> bool:
        """Whether a process is working here now. The lock is only asked about, not taken.

        Also true when the lock file cannot be read. A process never sees its own lock, and must not ask about it: closing
        a file gives up every lock that the process holds on it.
        """
        try:
            lock = os.open(self.path / "run.lock", os.O_RDONLY)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        try:
            return _held_by_another(lock)
        finally:
            os.close(lock)

    def write_config(self, text: str) -> None:
        """Write config.yaml, all or nothing, for its owner only. Raises `OSError`."""
        scratch = self.config.with_name(f".{self.config.name}.part")
        scratch.unlink(missing_ok=True)
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
            out.write(text)
        scratch.replace(self.config)

    def __enter__(self) -> RunDirectory:
        self._hold()
        try:
            self._check_store()
        except StoreError:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _hold(self) -> None:
        """Make the folder if need be, and take the lock."""
        try:
            _make_private(self.path)
            self.checkpoints.mkdir(exist_ok=True)
            os.close(os.open(self.log, os.O_WRONLY | os.O_CREAT, 0o600))
            self._lock = os.open(self.path / "run.lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, str(os.getpid()).encode(), 0)
        except BlockingIOError:
            raise self._in_use() from None
        except PermissionError as error:  # what lockf reports on some systems
            raise (self._in_use() if self._lock is not None else self._unusable(error)) from None
        except OSError as error:
            self._close()
            raise self._unusable(error) from error

    def _in_use(self) -> StoreError:
        assert self._lock is not None
        owner = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
        self._close()
        return StoreError(
            f"{self.path} is in use by another meteor (process {owner}); wait for it, or use another --run-dir"
        )

    def _check_store(self) -> None:
        """A missing or empty store would be taken for a new one, and everything would be paid for again."""
        if not self.config.exists():
            return
        if not self.database.exists():
            raise self._lost("is missing")
        if self.database.stat().st_size == 0 or self._has_no_tables():
            raise self._lost("is empty")

    def _has_no_tables(self) -> bool:
        """True for a copy made during a run, without `run.db-wal`. A damaged file is reported where it is read."""
        try:
            connection = open_read_only(self.database)
        except sqlite3.Error:
            return False
        try:
            return is_empty(connection)
        except sqlite3.Error:
            return False
        finally:
            connection.close()

    def _lost(self, state: str) -> StoreError:
        return StoreError(
            f"{self.database} {state}, though a run was held here: put a copy of it back (one made during a run needs "
            "its run.db-wal), or start over with --fresh, which pays for every call again and keeps this folder aside"
        )

    def _unusable(self, error: OSError) -> StoreError:
        return StoreError(f"{self.path} cannot be used as a run directory: {error.strerror}")

    def _close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _held_by_another(lock: int) -> bool:
    """Ask the kernel whether an exclusive lock on this file would have to wait (`F_GETLK`)."""
    mac = sys.platform == "darwin"
    layout = "qqihh" if mac else "hhqqi"  # struct flock: start, length, pid, type, whence; or type and whence first
    kind = 3 if mac else 0
    query = (0, 0, 0, fcntl.F_WRLCK, os.SEEK_SET) if mac else (fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    answer = fcntl.fcntl(lock, fcntl.F_GETLK, struct.pack(layout, *query))
    return bool(struct.unpack(layout, answer)[kind] != fcntl.F_UNLCK)


def _make_private(folder: Path) -> None:
    """Make the folder for its owner only; one that is there keeps the access that its owner gave it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.is_dir():
        folder.mkdir(mode=0o700)
        folder.chmod(0o700)
