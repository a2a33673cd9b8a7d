"""A server on a real socket that answers with exactly the bytes that a test gives it, and ways to ask it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from meteor_agents.backends.http.anthropic_messages import AnthropicModel
from meteor_agents.backends.http.openai_compatible import OpenAICompatibleModel
from meteor_agents.backends.http.transport import Network
from meteor_agents.errors import ModelError
from meteor_agents.models import ChatMessage, Completion, SamplingParams

MESSAGES = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Hello?")]
SAMPLING = SamplingParams(max_tokens=50)


@dataclass
class Reply:
    """One answer: `body` is sent with its length, or in chunks as the iterator gives them."""

    body: bytes | Callable[[], Iterator[bytes]] = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, content: Any, status: int = 200, **headers: str) -> Reply:
        """An answer of JSON; `retry_after="3"` becomes the header `retry-after`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(json.dumps(content).encode(), status, named)


@dataclass
class RawServer:
    """What is heard; each POST is answered by the next of `replies`, the last one again and again."""

    replies: list[Reply]
    models: Any = None
    """The body of its list of models; None: it has none."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    listed: int = 0
    """How often its list of models was asked for."""
    url: str = ""

    @contextmanager
    def running(self) -> Iterator[RawServer]:
        """`url` is its root. Everything it started has ended afterwards."""
        raw = self

        class Bound(_Handler):
            server_state = raw

        server = _Server(("127.0.0.1", 0), Bound)
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: RawServer

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""

    def do_GET(self) -> None:
        self.server_state.listed += 1
        listed = self.server_state.models
        self._send(Reply(b"", 404) if listed is None else Reply.of(listed))

    def do_POST(self) -> None:
        state = self.server_state
        state.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._send(state.replies[min(len(state.asked), len(state.replies)) - 1])

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if isinstance(reply.body, bytes):
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with suppress(OSError):  # the client has enough
            for chunk in reply.body():
                self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True


def open_at(url: str, interface: str = "openai", base: str = "/v1", **more: Any) -> OpenAICompatibleModel:
    """A model at the root `url`, for one of the two interfaces; `base` is where chat completions begin."""
    if interface == "anthropic":
        return AnthropicModel("m", url, **more)
    return OpenAICompatibleModel("m", url + base, **more)


def ask(server: RawServer, interface: str = "openai", *, times: int = 1, **more: Any) -> Completion:
    """The last of `times` replies."""

    async def run() -> Completion:
        model = open_at(server.url, interface, **more)
        try:
            for _ in range(times - 1):
                await model.complete(MESSAGES, SAMPLING)
            return await model.complete(MESSAGES, SAMPLING)
        finally:
            await model.aclose()

    return asyncio.run(run())


def answer_to(*replies: Reply, interface: str = "openai", **more: Any) -> Completion:
    """What a server that gives these answers makes of one call; raises what the call raises."""
    with RawServer(list(replies)).running() as server:
        return ask(server, interface, **more)


def outcome(interface: str, status: int, body: bytes, headers: dict[str, str] | None = None) -> Completion | ModelError:
    """What one call makes of an answer, without a socket. Anything but a reply or an error of ours goes through."""

    async def run() -> Completion | ModelError:
        async def answer(request: httpx.Request) -> httpx.Response:
            return httpx.Response(status, headers=headers, stream=httpx.ByteStream(body))

        network = Network(transport=httpx.MockTransport(answer))
        model = open_at("http://server.example", interface, network=network)
        try:
            return await model.complete(MESSAGES, SAMPLING)
        except ModelError as error:
            return error

    return asyncio.run(run())
