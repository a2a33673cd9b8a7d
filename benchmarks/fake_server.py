"""A chat-completions server that costs next to nothing: every reply after a fixed delay, the same text for everyone.

    python benchmarks/fake_server.py --delay-s 0.2

Prints its port, then serves until its standard input is closed. Replies to a model whose name holds `judge` are verdicts,
one in `--wrong-every` of them *incorrect*. GET anything: what was served so far, as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

ANSWER = "Work it out step by step. " * 55 + "\nAnswer: forty-two"
"""About 1.5 KB, as a short reasoning is."""


class Served:
    """What all connections share: the two replies, ready to send, and counts."""

    def __init__(self, delay_s: float, wrong_every: int) -> None:
        self.delay_s = delay_s
        self.wrong_every = wrong_every
        self.calls = self.verdicts = self.now = self.most = 0
        self.answer = _response(_completion(ANSWER))
        self.correct = _response(_completion(_verdict("correct")))
        self.incorrect = _response(_completion(_verdict("incorrect")))

    def reply_to(self, head_and_body: bytes) -> bytes:
        if head_and_body.startswith(b"GET"):
            counts = {"calls": self.calls, "most_at_once": self.most}
            return _response(json.dumps(counts).encode())
        self.calls += 1
        if b"judge" not in head_and_body[-4000:]:
            return self.answer
        self.verdicts += 1
        wrong = self.wrong_every and self.verdicts % self.wrong_every == 0
        return self.incorrect if wrong else self.correct


def _verdict(status: str) -> str:
    return json.dumps({"explanation": "The reasoning holds and the number is right.", "status": status, "guide": ""})


def _completion(text: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 80, "completion_tokens": 350, "total_tokens": 430}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "fake"}
    return json.dumps({**body, "choices": [choice], "usage": usage}).encode()


def _response(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Connection(asyncio.Protocol):
    """One keep-alive connection: bytes in, one response for each request."""

    def __init__(self, served: Served, loop: asyncio.AbstractEventLoop) -> None:
        self._served = served
        self._loop = loop
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while request := self._whole_request():
            served = self._served
            served.now += 1
            served.most = max(served.most, served.now)
            self._loop.call_later(served.delay_s, self._send, served.reply_to(request))

    def _whole_request(self) -> bytes:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return b""
        head = self._buffer[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self._buffer) < end + 4 + length:
            return b""
        request, self._buffer = self._buffer[: end + 4 + length], self._buffer[end + 4 + length :]
        return request

    def _send(self, response: bytes) -> None:
        self._served.now -= 1
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(response)


async def serve(delay_s: float, wrong_every: int) -> None:
    loop = asyncio.get_running_loop()
    served = Served(delay_s, wrong_every)
    server = await loop.create_server(lambda: Connection(served, loop), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--delay-s", type=float, default=0.2)
    parser.add_argument("--wrong-every", type=int, default=0)
    given = parser.parse_args()
    asyncio.run(serve(given.delay_s, given.wrong_every))
