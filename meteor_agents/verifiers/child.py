"""The program of a child process that checks answers: it serves one object, one request at a time, until it is ended.

The parent (`workers.py`) starts it as `python -c "...; main(fd)"`, so that it never imports the parent's main module.
Both ends send JSON objects over a socket:

    parent  {"open": "module:function", "arguments": {...}}, then a message of raw bytes for each of `"blobs"`
    child   {"opened": true}, or {"refused": "what is wrong with the settings"}
    parent  {"call": "verify", "question": {...}, "answer": "...", "extra": {...}, "limit_s": 7.0}
    child   {"phase": "answer"}, any number of times, and then {"reply": ...} or {"error": "what was raised"}
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, Protocol

from meteor_agents.errors import SettingsError
from meteor_agents.messages import Question

Phase = Callable[[str], None]
"""Tells the parent which phase begins. The time limit starts again."""


class Served(Protocol):
    """The object that a child process runs checks with."""

    def call(self, method: str, question: Question, answer: str, extra: dict[str, Any], phase: Phase) -> Any:
        """The result of `method` for this answer, as JSON can hold it. What it raises is sent to the parent as text."""
        ...


def main(descriptor: int) -> None:
    """Serve requests from this descriptor until its other end is closed, which also happens when the parent dies."""
    os.set_inheritable(descriptor, False)
    os.dup2(2, 1)  # what checked code prints must not mix with what the parent's command prints
    connection = Connection(descriptor)
    requests: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=receive, args=(connection, requests), daemon=True).start()
    served = opened(connection, requests)
    while served is not None:
        serve(connection, served, json.loads(requests.get()))


def receive(connection: Connection, requests: SimpleQueue[bytes]) -> None:
    """Reads all the time, so that the end of the parent is noticed in the middle of a check."""
    try:
        while True:
            requests.put(connection.recv_bytes())
    except (EOFError, OSError):
        os._exit(0)


def opened(connection: Connection, requests: SimpleQueue[bytes]) -> Served | None:
    """The object to serve; None if its settings are wrong, which is reported to the parent."""
    request = json.loads(requests.get())
    blobs = [requests.get() for _ in range(request["blobs"])]
    module, _, function = request["open"].partition(":")
    try:
        served: Served = getattr(importlib.import_module(module), function)(**request["arguments"], blobs=blobs)
    except SettingsError as error:
        send(connection, {"refused": str(error)})
        return None
    send(connection, {"opened": True})
    return served


def serve(connection: Connection, served: Served, request: dict[str, Any]) -> None:
    """Answer one request: send the reply, or what the check raised. Each phase may take `limit_s` seconds."""
    def phase(name: str) -> None:
        expire_after(request["limit_s"])
        send(connection, {"phase": name})

    expire_after(request["limit_s"])
    try:
        question = Question.model_validate(request["question"])
        reply = {"reply": served.call(request["call"], question, request["answer"], request["extra"], phase)}
    except BaseException as error:  # sys.exit too: a check does not end its process
        reply = {"error": f"{type(error).__name__}: {error}"}
    expire_after(0)
    send(connection, reply)


def expire_after(limit_s: float) -> None:
    """The system ends this process then, even if C code holds the interpreter and the parent is gone. 0: never."""
    signal.setitimer(signal.ITIMER_REAL, limit_s)


def send(connection: Connection, message: dict[str, Any]) -> None:
    """Send one message to the parent, as JSON. Ends this process if the parent is gone."""
    try:
        connection.send_bytes(json.dumps(message).encode())
    except OSError:  # the parent is gone
        os._exit(0)
