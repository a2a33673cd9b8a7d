"""A chat-completions server that mostly answers well, and otherwise does what real servers have been seen to do.

    python benchmarks/quirky_server.py --share 0.05 --seed 0

Prints its port, then serves until its standard input is closed. The model's name is the role. The request, and how often it
was asked, decide which call meets which quirk, so another try usually goes well. A good reply of a student ends with
"Answer: right" or "Answer: wrong"; a good verdict on it is true and says `TRUE_VERDICT`. GET anything: the account, as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import re
import sys
import time
from collections import Counter, defaultdict
from typing import Any

TRUE_VERDICT = "compared with the truth"
HANG_S = 15.0
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_LIMITED = "429 Too Many Requests"
_HUGE = "1" + "0" * 5000

HTTP: dict[str, tuple[str, list[str], bytes]] = {
    "429": (_LIMITED, [], b"slow down"),
    "429, pause": (_LIMITED, ["Retry-After: 1"], b"slow down"),
    "429, negative pause": (_LIMITED, ["Retry-After: -5"], b"slow down"),
    "429, pause is no number": (_LIMITED, ["Retry-After: nan"], b"slow down"),
    "500": ("500 Internal Server Error", [], b'{"error": {"message": "it broke"}}'),
    "500, half an emoji": ("500 Internal Server Error", [], b'{"error": {"message": "it broke \\ud83d"}}'),
    "502, nested 200,000 deep": ("502 Bad Gateway", [], b"[" * 200_000),
    "503, a page": ("503 Service Unavailable", [], b"<html>overloaded</html>"),
    "200, a page": ("200 OK", [], b"<html>please log in</html>"),
    "200, an error": ("200 OK", [], b'{"error": {"code": 500, "message": "upstream error"}}'),
    "200, no choices": ("200 OK", [], b'{"choices": [], "usage": {"prompt_tokens": 50, "completion_tokens": 0}}'),
    "200, nothing": ("200 OK", [], b""),
}
"""Name -> status, further headers, body."""
USAGE: dict[str, Any] = {
    "no usage": None,
    "negative usage": {"prompt_tokens": -1_000_000, "completion_tokens": 5},
    "usage of 10**30": {"prompt_tokens": 10**30, "completion_tokens": 5},
    "usage is text": {"prompt_tokens": "many", "completion_tokens": []},
}
"""Name -> `usage` of an otherwise good reply."""
WIRE = ("reset", "hang", "half a body")
STUDENT = ("empty", "cut", "half an emoji", "NUL", "filtered", "refused")
JUDGE = ("no verdict", "not correct", "two verdicts", "half an emoji", "huge number", "empty")


class Quirky:
    """What all connections share: who was asked what how often, and what was answered well."""

    def __init__(self, share: float, seed: int) -> None:
        self.share, self.seed = share, seed
        self.asked: Counter[str] = Counter()
        self.quirks: Counter[str] = Counter()
        self.good = 0
        """Replies without a quirk."""
        self.paid: dict[str, list[float]] = defaultdict(list)
        """Request -> when it got a reply: a whole completion with text in it, odd or not."""

    def account(self) -> dict[str, Any]:
        """Calls, quirks by name, good replies, and when requests that got several replies got each."""
        several = {request: moments for request, moments in self.paid.items() if len(moments) > 1}
        return {"calls": self.asked.total(), "quirks": dict(self.quirks), "good": self.good, "several": several}

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = _LENGTH.search(head)
                if length is None:
                    await send(writer, json.dumps(self.account()).encode())
                    continue
                await self._answer(json.loads(await reader.readexactly(int(length[1]))), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        request = hashlib.sha256(json.dumps([body["model"], body["messages"]]).encode()).hexdigest()[:16]
        self.asked[request] += 1
        draw = random.Random(f"{self.seed}:{request}:{self.asked[request]}")
        role = "judge" if "judge" in body["model"] else "student"
        prompt = body["messages"][-1]["content"]
        await asyncio.sleep(0.01)
        if draw.random() >= self.share:
            await send(writer, completion(good_text(role, prompt, request)))
            self.good += 1
            self.paid[request].append(time.time())
            return
        quirk = draw.choice([*HTTP, *USAGE, *WIRE, *(STUDENT if role == "student" else JUDGE)])
        self.quirks[f"{role}: {quirk}"] += 1
        await self._misbehave(quirk, good_text(role, prompt, request), writer)
        if quirk not in HTTP:
            self.paid[request].append(time.time())  # those of WIRE have raised

    async def _misbehave(self, quirk: str, good: str, writer: asyncio.StreamWriter) -> None:
        if quirk in HTTP:
            status, headers, content = HTTP[quirk]
            await send(writer, content, status=status, headers=headers)
        elif quirk in USAGE:
            await send(writer, completion(good, usage=USAGE[quirk]))
        elif quirk == "hang":
            await asyncio.sleep(HANG_S)
            raise ConnectionResetError
        elif quirk in WIRE:
            whole = completion(good)
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(whole)}\r\n\r\n"
            writer.write(head.encode() + whole[: len(whole) // 2])
            await writer.drain()
            raise ConnectionResetError
        else:
            await send(writer, _odd_reply(quirk, good))


def _odd_reply(quirk: str, good: str) -> bytes:
    verdict = {"explanation": "x", "status": "correct", "guide": ""}
    match quirk:
        case "empty":
            return completion("")
        case "cut":
            return completion("so it is right\nAnswer: right, and", finish="length")
        case "half an emoji":
            odd = good.replace("so it is", "so \ud83d it is").replace(TRUE_VERDICT, f"{TRUE_VERDICT} \\ud83d")
            return completion(odd)
        case "NUL":
            return completion(good.replace("so it is", "so\0 it is"))
        case "filtered":
            return completion("so it is right\nAnswer: right", finish="content_filter")
        case "refused":
            return completion("so it is right\nAnswer: right", finish="refusal")
        case "no verdict":
            return completion("I think that it is correct.")
        case "not correct":
            return completion("Not Correct")
        case "two verdicts":
            return completion(json.dumps({**verdict, "status": "incorrect"}) + " or rather " + json.dumps(verdict))
        case _:
            return completion(f'{{"n": {_HUGE}, "status": "correct", "explanation": "x", "guide": ""')


def good_text(role: str, prompt: str, request: str) -> str:
    """What a well-behaved server says: a student is right half of the time, and always once it was told how."""
    if role == "student":
        right = int(request, 16) % 2 or "be right" in prompt
        return f"so it is {'right' if right else 'wrong'}\nAnswer: {'right' if right else 'wrong'}"
    status = "correct" if "Answer: right" in prompt else "incorrect"
    return json.dumps({"explanation": TRUE_VERDICT, "status": status, "guide": "be right"})


def completion(text: str, *, finish: str = "stop", usage: Any = {"prompt_tokens": 80, "completion_tokens": 20}) -> bytes:  # noqa: B006
    """The body of a chat completion; without usage where it is None."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return json.dumps({"choices": [choice]} | ({} if usage is None else {"usage": usage})).encode()


async def send(
    writer: asyncio.StreamWriter, body: bytes, *, status: str = "200 OK", headers: list[str] | None = None
) -> None:
    """One response. Raises `ConnectionError` when nobody reads it."""
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *(headers or [])]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    await writer.drain()


async def serve(share: float, seed: int) -> None:
    """Until standard input is closed."""
    server = await asyncio.start_server(Quirky(share, seed).connected, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    asyncio.run(serve(given.share, given.seed))
