"""What servers and files do to a run: refuse a system message, abort, change under it, or inherit what is not theirs."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from meteor_agents.backends.sglang_servers.server import Patience, SGLangServer
from meteor_agents.errors import ModelError, RefusedCallError, ServerDown, TransientModelError
from meteor_agents.models import ChatMessage
from tests.backends.conformance.fake_server import FakeServer
from tests.backends.http.raw_server import RawServer, Reply
from tests.sglang.test_sglang import (
    GREEDY,
    base,
    fake_python,
    launching,
    opened,
    processes_of,
    run,
    said,
    servers,
    student,
    until,
)

__all__ = ["base", "fake_python"]

ASKED = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="SAY:yes")]


def roles_asked(server: FakeServer) -> list[list[str]]:
    return [[turn["role"] for turn in body["messages"]] for body in server.asked("/v1/chat/completions")]


@pytest.mark.parametrize(
    "words", ["System role not supported", "Conversation roles must alternate user/assistant/user/assistant/..."]
)
def test_where_a_server_refuses_a_system_message_its_text_goes_before_the_users(words: str) -> None:
    with servers(1) as (server,):
        server.refuse = lambda body: words if any(m["role"] == "system" for m in body.get("messages", ())) else None

        async def work() -> None:
            async with opened("judge", {"backend": "sglang", "model": "m", "base_url": server.url}, []) as model:
                for _ in range(2):
                    assert (await model.complete(ASKED, GREEDY)).text

        run(work)
        assert roles_asked(server) == [["system", "user"], ["user"], ["user"]], "the second call knows it"
        assert server.asked("/v1/chat/completions")[-1]["messages"][0]["content"] == "Be brief.\n\nSAY:yes"


def test_other_refusals_are_passed_on_as_they_are() -> None:
    with servers(1) as (server,):

        async def work() -> None:
            async with opened("judge", {"backend": "sglang", "model": "m", "base_url": server.url}, []) as model:
                server.refuse = lambda body: "no such adapter"
                with pytest.raises(RefusedCallError, match="no such adapter"):
                    await model.complete(ASKED, GREEDY)
                server.refuse = lambda body: f"System role not supported in {len(body['messages'])} turns"
                with pytest.raises(RefusedCallError, match="in 2 turns"):
                    await model.complete(ASKED, GREEDY)

        run(work)
        assert roles_asked(server) == [["system", "user"], ["system", "user"], ["user"]]


@contextmanager
def answering(body: object) -> Iterator[str]:
    """The address of a server that answers every POST with this JSON."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            content = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing is logged."""

    with HTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_address[1]}"
        finally:
            httpd.shutdown()
            thread.join()


async def generate(url: str) -> None:
    server = SGLangServer(url)
    try:
        await server.generate_token()
    finally:
        await server.aclose()


@pytest.mark.parametrize("ending", [{"type": "abort", "message": "out of memory"}, {"type": "abort"}])
def test_a_generation_that_the_server_aborted_is_no_sign_of_life(ending: dict[str, str]) -> None:
    aborted = pytest.raises(TransientModelError, match=r"aborted a generation: (out of memory|no reason given)")
    with answering({"text": "", "meta_info": {"finish_reason": ending}}) as url, aborted:
        asyncio.run(generate(url))


@pytest.mark.parametrize(
    "about",
    [{}, {"meta_info": None}, {"meta_info": {"finish_reason": None}}, {"meta_info": {"finish_reason": {"type": "stop"}}}],
)
def test_any_other_ending_of_a_generation_is(about: dict[str, Any]) -> None:
    with answering({"text": "a", **about}) as url:
        asyncio.run(generate(url))


def without_end() -> Iterator[bytes]:
    """An answer of a gigabyte."""
    yield b'{"text": "'
    for _ in range(2**14):
        yield b"x" * 2**16


def dripping() -> Iterator[bytes]:
    """An answer that never ends and never pauses for long."""
    while True:
        yield b" "
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("sent", "headers", "complaint"),
    [
        (without_end, {}, "is longer than 4 MB"),
        (gzip.compress(b" " * 10**8), {"Content-Encoding": "gzip"}, "is longer than 4 MB"),
        (dripping, {}, "no answer in time"),
        (b"[" * 200_000, {}, "holds no text"),
        (b'{"text": 1' + b"0" * 5000 + b"}", {}, "holds no text"),
    ],
)
def test_an_answer_that_no_server_means_is_an_error_in_bounded_time_and_memory(
    sent: bytes | Callable[[], Iterator[bytes]], headers: dict[str, str], complaint: str
) -> None:
    async def work(url: str) -> None:
        server = SGLangServer(url, patience=Patience(short_s=1, token_s=1))
        try:
            await server.generate_token()
        finally:
            await server.aclose()

    with RawServer([Reply(sent, 200, headers)]).running() as raw, pytest.raises(ModelError, match=complaint):
        asyncio.run(asyncio.wait_for(work(raw.url), 20))


def change_weights(folder: Path) -> None:
    """Other weights in a file of the same length."""
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes())
    later = weights.stat().st_mtime_ns + 1_000_000_000
    os.utime(weights, ns=(later, later))


def test_a_launched_server_is_not_started_again_with_weights_that_changed(
    base: Path, fake_python: Path, tmp_path: Path
) -> None:
    async def work() -> None:
        async with opened("student", launching(base, fake_python), [], tmp_path / "logs") as model:
            change_weights(base)
            os.kill(processes_of(base)[-1], signal.SIGKILL)
            with pytest.raises(ServerDown, match=r"safetensors in .* changed after being loaded, .* no longer base-"):
                await model.complete(said("SAY:x"), GREEDY)

    run(work)
    assert not processes_of(base)


def test_a_server_that_comes_back_without_our_weights_is_not_given_changed_ones(base: Path) -> None:
    notes: list[str] = []
    with servers(1) as (server,):

        async def work() -> None:
            async with opened("student", student(base, [server.url]), notes) as model:
                await model.load_weights(base, "base")
                change_weights(base)
                server.script.weights = "somebody else's"
                with pytest.raises(TransientModelError, match="instead of base"):
                    await model.complete(said("SAY:x"), GREEDY)
                await until(lambda: any("is not taken back" in note for note in notes))

        run(work)
        assert len(server.asked("/update_weights_from_disk")) == 1
    assert sum("is not taken back: model.safetensors in" in note for note in notes) == 1


def test_a_launched_server_inherits_no_open_file_of_the_run(base: Path, fake_python: Path, tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    os.set_inheritable(lock, True)

    def opened_by(process: int) -> set[Path]:
        return {file.resolve() for file in Path(f"/proc/{process}/fd").iterdir()}

    async def work() -> None:
        async with opened("student", launching(base, fake_python), [], tmp_path / "logs"):
            found = processes_of(base)
            assert len(found) == 2, "the watch and the server"
            assert all(tmp_path / "lock" not in opened_by(process) for process in found)
            assert tmp_path / "lock" in opened_by(os.getpid())

    try:
        run(work)
    finally:
        os.close(lock)
