"""A chat-completions server in a process of its own, for tests: replies are decided by the request, requests are counted.

python -m tests.chat_server --delay 0.01     prints its port. GET /log lists in order what was asked, /count counts it.

The model's name is the role. A student's reply names `right` or `wrong` by a hash of its prompt, and is some words long; a
reply longer than max_tokens is cut. The judge finds what says `right` correct.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class ChatServer:
    """The tests' end: where it listens, and what it was asked."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def log(self) -> list[str]:
        """role:hash of every request, in order."""
        with urllib.request.urlopen(f"{self.url}/log", timeout=30) as reply:
            found: list[str] = json.load(reply)
        return found

    def count(self) -> int:
        """How many requests there were."""
        with urllib.request.urlopen(f"{self.url}/count", timeout=30) as reply:
            return int(json.load(reply))


@contextmanager
def running_server(delay_s: float = 0.0) -> Iterator[ChatServer]:
    command = [sys.executable, "-m", "tests.support.chat_server", "--delay", str(delay_s)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    try:
        assert process.stdout is not None
        yield ChatServer(int(process.stdout.readline()))
    finally:
        process.kill()
        process.communicate()


def request_hash(body: dict[str, Any]) -> str:
    text = json.dumps([body["messages"], body["max_tokens"]], sort_keys=True)
    return f"{body['model']}:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def reply_to(body: dict[str, Any]) -> tuple[str, str]:
    """Text and finish reason."""
    prompt = body["messages"][-1]["content"]
    number = int(hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest()[:8], 16)
    if body["model"] == "judge":
        right = "It is right" in prompt
        said = {"status": "correct" if right else "incorrect", "explanation": f"e{number}", "guide": f"g{number}"}
        return json.dumps(said), "stop"
    words = [*(f"w{i}" for i in range(number % 40)), "It", "is", "right" if number % 2 else "wrong", str(number)]
    if len(words) > body["max_tokens"]:
        return " ".join(words[: body["max_tokens"]]), "length"
    return " ".join(words), "stop"


async def _serve(delay_s: float) -> None:
    log: list[str] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")),
                    0,
                )  # fmt: skip
                content = await reader.readexactly(length)
                if head.startswith(b"GET"):
                    payload: Any = len(log) if b"/count " in head else log
                else:
                    body = json.loads(content)
                    log.append(request_hash(body))
                    await asyncio.sleep(delay_s)
                    payload = _completion(body)
                text = json.dumps(payload).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(text)
                )
                writer.write(text)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def _completion(body: dict[str, Any]) -> dict[str, Any]:
    text, finish_reason = reply_to(body)
    given = sum(len(message["content"].split()) for message in body["messages"])
    return {
        "choices": [{"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": given, "completion_tokens": len(text.split())},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float, default=0.0)
    asyncio.run(_serve(parser.parse_args().delay))
