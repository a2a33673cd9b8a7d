"""A server on a real socket that speaks three interfaces: chat completions, the Messages API, SGLang's own endpoints.

Its model is a script: what a prompt says decides the reply (see `Script`) or what goes wrong (see `FAULTS`). A token is a
word. Run as a program it takes the arguments of `python -m sglang.launch_server`, so that it can be launched like one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

RETRY_AFTER_S = 7

FAULTS: dict[str, tuple[int, str]] = {
    "401": (401, '{"error": {"message": "no such key"}}'),
    "403": (403, '{"error": {"message": "not allowed"}}'),
    "400": (400, '{"error": {"message": "context length exceeded"}}'),
    "429": (429, '{"error": {"message": "slow down"}}'),
    "500": (500, "<html><body>Internal Server Error</body></html>"),
    "529": (529, '{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}'),
    "not json": (200, "<html>welcome to the hotel</html>"),
    "cut json": (200, '{"choices": [{"message": {"content": "hal'),
}
"""`FAULT name` in a prompt gets this status and body. `FAULT reset` and `FAULT hang` do what they say."""


@dataclass
class Said:
    text: str
    stopped: bool
    prompt_tokens: int
    tokens: int
    matched_stop: str | None = None


@dataclass
class Script:
    """The model: `SAY:x` says x, `COUNT n` counts to n, anything else gets words that depend on it, and on the seed."""

    weights: str = "default"

    def speak(self, messages: list[dict[str, str]], limit: int, stop: list[str], seed: int | None, t: float) -> Said:
        prompt = messages[-1]["content"]
        if prompt.startswith("SAY:"):
            full = prompt.removeprefix("SAY:")
        elif prompt.startswith("COUNT "):
            full = " ".join(str(i) for i in range(1, int(prompt.split()[1]) + 1))
        else:
            fixed = hashlib.sha256(f"{prompt} {self.weights} {seed if t else ''}".encode()).hexdigest()
            numbers = random.Random(fixed) if seed is not None or not t else random.Random()
            full = " ".join(numbers.choice("abcdefghij") + str(numbers.randrange(1000)) for _ in range(40))
        words = full.split(" ")
        text, stopped, matched = " ".join(words[:limit]), len(words) <= limit, None
        for string in stop:
            if (at := text.find(string)) >= 0:
                text, stopped, matched = text[:at], True, string
        counted = sum(len(message["content"].split()) for message in messages)
        return Said(text, stopped, counted, len(text.split()), matched)


@dataclass
class FakeServer:
    """What the server is and what it heard."""

    script: Script = field(default_factory=Script)
    model_path: str = "fake"
    waiting: int = 0
    memory_saver: bool = False
    seeds: bool = True
    delay_s: float = 0.0
    refuse: Callable[[dict[str, Any]], str | None] = lambda body: None
    """Words of a 400 for a request body, or None."""
    models: list[dict[str, Any]] = field(default_factory=list)
    """Its list of models; empty: it has none."""
    says: str | None = None
    """What every chat is answered with."""
    refusal_status: int = 400
    """What a refusal is answered with instead."""
    tls: ssl.SSLContext | None = None
    requests: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    """Path, body and headers (names in lower case) of each POST."""
    pads: bool = False
    """A reply that has to follow a schema is white space."""
    fault: str = ""
    """What every chat meets; see `FAULTS`."""
    unknown: set[str] = field(default_factory=set)
    """Paths that it answers with 404."""
    released: bool = False
    most_at_once: int = 0
    url: str = ""
    _at_once: int = 0
    _httpd: ThreadingHTTPServer | None = None
    _connections: list[socket.socket] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def asked(self, path: str) -> list[dict[str, Any]]:
        return [body for heard, body, _ in self.requests if heard.partition("?")[0] == path]

    @contextmanager
    def running(self, port: int = 0) -> Iterator[FakeServer]:
        self._httpd = self.listen(port)
        thread = threading.Thread(target=self._httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self.stop()
            thread.join()

    def stop(self) -> None:
        """Take no more connections, and drop those that there are."""
        if self._httpd is not None:
            self._httpd.shutdown()
            self._httpd.server_close()
            self._httpd = None
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._connections.clear()

    def listen(self, port: int) -> ThreadingHTTPServer:
        fake = self

        class Bound(_Handler):
            server_state = fake

        httpd = _Server(("127.0.0.1", port), Bound)
        if self.tls is not None:
            httpd.socket = self.tls.wrap_socket(httpd.socket, server_side=True)
        self.url = f"http://127.0.0.1:{httpd.server_address[1]}"
        return httpd

    @contextmanager
    def working(self) -> Iterator[None]:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            time.sleep(self.delay_s)
            yield
        finally:
            with self._lock:
                self._at_once -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: FakeServer

    def setup(self) -> None:
        super().setup()
        self.server_state._connections.append(self.connection)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""

    def do_GET(self) -> None:
        state = self.server_state
        path = self.path.partition("?")[0]
        if path in state.unknown:
            self._send(404, "")
        elif path in ("/health", "/health_generate"):
            self._send(200, "")
        elif path == "/model_info":
            self._send_json({"model_path": state.model_path, "weight_version": state.script.weights})
        elif path == "/server_info":
            self._send_json({"enable_memory_saver": state.memory_saver, "enable_deterministic_inference": state.seeds})
        elif path == "/v1/models" and state.models:
            self._send_json({"object": "list", "data": state.models})
        elif path == "/v1/loads":
            self._send_json({"loads": [{"num_waiting_reqs": state.waiting, "num_running_reqs": 0}]})
        else:
            self._send(404, '{"detail": "Not Found"}')

    def do_POST(self) -> None:
        state = self.server_state
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        path = self.path.partition("?")[0]
        state.requests.append((self.path, body, {name.lower(): value for name, value in self.headers.items()}))
        if (words := state.refuse(body)) is not None:
            return self._send(state.refusal_status, json.dumps({"error": {"message": words}}))
        known: dict[str, Callable[[dict[str, Any]], None]] = {
            "/v1/chat/completions": self._chat,
            "/v1/messages": self._messages,
            "/generate": self._generate,
            "/update_weights_from_disk": self._update_weights,
            "/release_memory_occupation": lambda body: self._memory(True),
            "/resume_memory_occupation": lambda body: self._memory(False),
        }
        answer = known.get(path)
        if answer is None or path in state.unknown:
            return self._send(404, '{"detail": "Not Found"}')
        with state.working():
            return answer(body)

    def _chat(self, body: dict[str, Any]) -> None:
        if self._fault(body["messages"]):
            return
        limit = body.get("max_tokens") or body["max_completion_tokens"]
        said = self._said(body, limit, body.get("stop") or [])
        message: dict[str, Any] = {"role": "assistant", "content": said.text}
        if (thought := _thought(body)) is not None:
            message["reasoning_content"] = thought
        weights = self.server_state.script.weights
        self._send_json(
            {
                "choices": [{"message": message, "finish_reason": "stop" if said.stopped else "length"}],
                "usage": {"prompt_tokens": said.prompt_tokens, "completion_tokens": said.tokens},
                **({"metadata": {"weight_version": weights}} if weights != "default" else {}),
            }
        )

    def _messages(self, body: dict[str, Any]) -> None:
        if self._fault(body["messages"]):
            return
        said = self._said(body, body["max_tokens"], body.get("stop_sequences") or [])
        thought = _thought(body)
        thinking = [{"type": "thinking", "thinking": thought, "signature": "x"}] if thought is not None else []
        finished = "end_turn" if said.matched_stop is None else "stop_sequence"
        self._send_json(
            {
                "type": "message",
                "role": "assistant",
                "content": [*thinking, {"type": "text", "text": said.text}],
                "stop_reason": finished if said.stopped else "max_tokens",
                "stop_sequence": said.matched_stop,
                "usage": {"input_tokens": said.prompt_tokens, "output_tokens": said.tokens},
            }
        )

    def _said(self, body: dict[str, Any], limit: int, stop: list[str]) -> Said:
        if (words := self.server_state.says) is not None:
            return Said(words, True, 1, len(words.split()))
        system = [{"role": "system", "content": body["system"]}] if "system" in body else []
        if self.server_state.pads and ("response_format" in body or "output_config" in body):
            return Said("{" + " \n" * 200, False, 1, limit)
        return self.server_state.script.speak(
            [*system, *body["messages"]], limit, stop, body.get("seed"), body.get("temperature", 1.0)
        )

    def _fault(self, messages: list[dict[str, str]]) -> bool:
        prompt = f"FAULT {fault}" if (fault := self.server_state.fault) else messages[-1]["content"]
        if not prompt.startswith("FAULT "):
            return False
        name = prompt.removeprefix("FAULT ")
        if name == "hang":
            time.sleep(60)
            self.close_connection = True
        elif name == "reset":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.shutdown(socket.SHUT_WR)
            self.close_connection = True
        else:
            status, body = FAULTS[name]
            self._send(status, body, **({"Retry-After": str(RETRY_AFTER_S)} if status == 429 else {}))
        return True

    def _generate(self, body: dict[str, Any]) -> None:
        self._send_json({"text": "x"})

    def _update_weights(self, body: dict[str, Any]) -> None:
        folder = Path(body["model_path"])
        if (folder / "crash").exists():
            os._exit(9)
        if (folder / "refuse").exists():
            return self._send(400, json.dumps({"success": False, "message": "shapes differ"}))
        state = self.server_state
        state.model_path = str(folder)
        if not (folder / "lie").exists():
            state.script.weights = body["weight_version"]
        return self._send_json({"success": True, "message": "Succeeded to update model weights."})

    def _memory(self, released: bool) -> None:
        self.server_state.released = released
        self._send(200, "")

    def _send_json(self, content: object) -> None:
        self._send(200, json.dumps(content, ensure_ascii=False))

    def _send(self, status: int, body: str, **headers: str) -> None:
        content = body.encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def _thought(body: dict[str, Any]) -> str | None:
    """A prompt that asks for thinking gets some beside the reply."""
    return "hmm, let me see" if "THINK" in json.dumps(body["messages"]) else None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", dest="module")
    parser.add_argument("--model-path")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--weight-version")
    parser.add_argument("--enable-memory-saver", action="store_true")
    parser.add_argument("--start-delay", type=float, default=0)
    parser.add_argument("--refuse-model", help="exit with an error for a model path that ends in this")
    args = parser.parse_args()
    assert (args.module, args.host) == ("sglang.launch_server", "127.0.0.1")
    print("starting", args.model_path, args.weight_version, flush=True)
    time.sleep(args.start_delay)
    if args.refuse_model and args.model_path.endswith(args.refuse_model):
        sys.exit("cannot load this model")
    state = FakeServer(Script(args.weight_version), args.model_path, memory_saver=args.enable_memory_saver)
    state.listen(args.port).serve_forever()


if __name__ == "__main__":
    main()
