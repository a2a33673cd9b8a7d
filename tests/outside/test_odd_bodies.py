"""Bodies that would fill the memory or never end: each is one failed call of a run, which goes on and heals."""

from __future__ import annotations

import gzip
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import pytest

from meteor_agents.traces import Outcome
from tests.outside.odd_server import OddServer, Project

JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def gzip_bomb(out: BinaryIO) -> None:
    """400 MB of blanks in 400 kB."""
    packed = gzip.compress(b" " * 400_000_000, compresslevel=1)
    out.write(JSON + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed)


def endless(out: BinaryIO) -> None:
    """Blanks as fast as they are taken."""
    out.write(JSON + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        out.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")


def drip(out: BinaryIO) -> None:
    """A blank every tenth of a second, so that no read of its own ever times out."""
    out.write(JSON + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        out.write(b"1\r\n \r\n")
        time.sleep(0.1)


def endless_header(out: BinaryIO) -> None:
    """Headers without an end."""
    out.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        out.write(b"X-More: " + b"a" * 1000 + b"\r\n")


@contextmanager
def serving(body: Callable[[BinaryIO], None]) -> Iterator[str]:
    """The base URL of a server that answers every request so."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.connection.recv(65_536)
            with suppress(OSError):  # the client leaves
                body(self.connection.makefile("wb", buffering=0))

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("body", [gzip_bomb, endless, drip, endless_header])
def test_a_body_without_bounds_is_a_failed_call_and_the_run_heals(tmp_path: Path, body: Callable[[BinaryIO], None]) -> None:
    with OddServer().running() as good, serving(body) as url:
        project = Project(tmp_path, good, fail_on=1)
        began = time.monotonic()
        said = project.refine("--set", f"student.base_url={url}", "--set", "student.limits.timeout_s=3", code=1)
        assert time.monotonic() - began < 60
        assert "student: " in said.partition("all 3 questions failed; the first: ")[2], said
        assert {trace.outcome for trace in project.traces()} == {Outcome.FAILED}
        project.refine()
        assert {trace.outcome for trace in project.traces()} == {Outcome.ACCEPTED}
