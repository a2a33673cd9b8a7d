"""Child processes that check answers and can be killed: a check never holds, ends or fills the process of the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from meteor_agents.errors import SettingsError
from meteor_agents.messages import Question

OPENING_S = 120.0
"""The time limit for a child to start and open what it serves, for example to import the user's module."""
GRACE_S = 0.3
"""How much longer than its time limit a check may take before its process is killed."""
ORPHAN_S = 5.0
"""A check whose parent is gone is ended by the system this much after its time limit."""
PROGRAM = "import sys; sys.path[:] = {path!r}; from meteor_agents.verifiers.child import main; main({descriptor})"


@dataclass(frozen=True, slots=True)
class Job:
    """What each child of a pool serves, and for how long."""

    target: str
    """`module:function` that returns the object to serve (`child.Served`)."""
    arguments: Mapping[str, Any]
    """Its arguments, as JSON can hold them."""
    timeout_s: float
    """Seconds that each phase of a check may take."""
    blobs: Sequence[bytes] = ()
    """Given to that function too, as `blobs`."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A check that gave no reply: its child is gone."""

    phase: str
    """The last phase that the child reported; empty if it reported none."""
    reason: str
    """Why there is no reply, such as "the process of the check ended with exit code 3"."""
    late: bool = False
    """Whether it was killed at its time limit."""
    exhausted: bool = False
    """Whether it was that, or found no more memory."""


@dataclass(slots=True)
class Workers:
    """Up to `most` children of one kind, started when needed and kept. Any number of threads may ask at once."""

    job: Job
    most: int = 4
    _idle: list[Worker] = field(default_factory=list)
    _busy: set[Worker] = field(default_factory=set)
    _closed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _free: threading.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._free = threading.Semaphore(self.most)

    def start(self) -> None:
        """Starts the first child. Raises `SettingsError` with what the child says is wrong with the settings."""
        self._idle.append(Worker(self.job))

    def ask(self, method: str, question: Question, answer: str, **extra: Any) -> Any | Ended:
        """What the served object replies; waits for a free child first. Never raises for what the check does."""
        request = {
            "call": method,
            "question": question.model_dump(mode="json"),
            "answer": answer,
            "extra": extra,
            "limit_s": self.job.timeout_s + ORPHAN_S,
        }
        with self._free:
            try:
                worker = self._taken()
            except (OSError, SettingsError) as error:
                return Ended("", f"no process could be started for the check: {error}")
            found = worker.ask(request)
            self._give_back(worker)
            return found

    def close(self) -> None:
        """Ends all children, those in the middle of a check too."""
        with self._lock:
            self._closed = True
            idle, busy = self._idle[:], list(self._busy)
            self._idle.clear()
        for worker in idle:
            worker.release()
        for worker in busy:  # the thread that asks it is told by its end
            worker.kill()

    def _taken(self) -> Worker:
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.waits():
                    self._busy.add(worker)
                    return worker
                worker.release()
        worker = Worker(self.job)
        with self._lock:
            self._busy.add(worker)
            if self._closed:
                worker.kill()
        return worker

    def _give_back(self, worker: Worker) -> None:
        with self._lock:
            self._busy.discard(worker)
            if not self._closed and not worker.killed:
                self._idle.append(worker)
                return
        worker.release()


class Worker:
    """One child process. It inherits no descriptor but its socket and the standard error."""

    def __init__(self, job: Job) -> None:
        """Raises `SettingsError` if the child refuses the settings or ends, and `OSError` if it cannot be started."""
        self.timeout_s = job.timeout_s
        self.killed = False
        self._connection, theirs = Pipe()
        with theirs:
            program = PROGRAM.format(path=[str(Path(entry).absolute()) for entry in sys.path], descriptor=theirs.fileno())
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", program],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # Ctrl-C is for the run alone, and what the check starts ends with it
                )
            except OSError:
                self._connection.close()
                raise
        try:
            self._open(job)
        except BaseException:
            self.release()
            raise

    def waits(self) -> bool:
        """Whether the child lives and has nothing to say, as it must before it is asked."""
        return not self._connection.poll(0)

    def ask(self, request: Mapping[str, Any]) -> Any | Ended:
        """The child's reply to one request, or how the check ended without one. A child that is late or gone is killed."""
        phase = ""
        try:
            self._connection.send_bytes(json.dumps(request).encode())
            while True:
                message = self._received(self.timeout_s + GRACE_S)
                match message:
                    case {"phase": str(phase)}:
                        continue
                    case {"reply": reply}:
                        return reply
                    case _:
                        error = str(message.get("error"))
                        return Ended(phase, f"the check raised {error}", exhausted=error.startswith("MemoryError"))
        except TimeoutError:
            self.kill()
            return Ended(phase, f"the check did not end within {self.timeout_s:g} s", late=True, exhausted=True)
        except (OSError, EOFError, ValueError, AttributeError):
            self.kill()
            return Ended(phase, f"the process of the check ended with {self._ending()}")

    def kill(self) -> None:
        """End the child and what it started. Any thread may call this, also more than once."""
        self.killed = True
        if self._process.returncode is None:
            with suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def release(self) -> None:
        """Ends the child and closes its socket. For the thread that asked it last."""
        self.kill()
        self._connection.close()

    def _open(self, job: Job) -> None:
        try:
            request = {"open": job.target, "arguments": dict(job.arguments), "blobs": len(job.blobs)}
            self._connection.send_bytes(json.dumps(request).encode())
            for blob in job.blobs:
                self._connection.send_bytes(blob)
            message = self._received(OPENING_S)
        except TimeoutError as error:
            raise SettingsError(f"{job.target} was not ready after {OPENING_S:g} s") from error
        except (OSError, EOFError, ValueError) as error:
            self.kill()
            raise SettingsError(f"its process ended with {self._ending()} before it was ready") from error
        if "refused" in message:
            raise SettingsError(message["refused"])

    def _received(self, timeout_s: float) -> Any:
        if not self._connection.poll(timeout_s):
            raise TimeoutError
        return json.loads(self._connection.recv_bytes())

    def _ending(self) -> str:
        code = self._process.returncode
        return f"signal {-code} ({signal.strsignal(-code)})" if code and code < 0 else f"exit code {code}"
