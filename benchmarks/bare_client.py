"""What the calls of a workload cost without a pipeline: the same two chained calls a question, nothing kept.

    python benchmarks/bare_client.py aiohttp http://127.0.0.1:PORT/v1 --questions 3000 --in-flight 512

`aiohttp` is a plain aiohttp client; `httpx` is `backends/openai_compatible.py` without limits, store or engine.
Prints one JSON object: seconds, and CPU seconds of the calls alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time
from collections.abc import Awaitable, Callable

PROMPT = "You are an expert in arithmetic. " + "What is six times seven, and why? " * 12


async def measure(client: str, base_url: str, questions: int, in_flight: int) -> None:
    ask, close = CLIENTS[client](base_url, in_flight)
    owed = iter(range(questions))

    async def worker() -> None:
        for _ in owed:
            await ask("student")
            await ask("judge")

    before, started = cpu_s(), time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    print(json.dumps({"wall_s": time.perf_counter() - started, "work_cpu_s": cpu_s() - before}))
    await close()


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


Ask = Callable[[str], Awaitable[str]]
Close = Callable[[], Awaitable[None]]


def aiohttp_client(base_url: str, in_flight: int) -> tuple[Ask, Close]:
    import aiohttp

    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=in_flight))
    url = f"{base_url}/chat/completions"

    async def ask(model: str) -> str:
        body = {"model": model, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 512}
        async with session.post(url, json=body) as response:
            text: str = json.loads(await response.read())["choices"][0]["message"]["content"]
            return text

    return ask, session.close


def httpx_client(base_url: str, in_flight: int) -> tuple[Ask, Close]:
    from meteor_agents.backends.openai_compatible import OpenAICompatibleModel
    from meteor_agents.models import ChatMessage, SamplingParams

    models = {name: OpenAICompatibleModel(name, base_url, connections=in_flight) for name in ("student", "judge")}
    messages, sampling = [ChatMessage(role="user", content=PROMPT)], SamplingParams()

    async def ask(model: str) -> str:
        return (await models[model].complete(messages, sampling)).text

    async def close() -> None:
        for model in models.values():
            await model.aclose()

    return ask, close


CLIENTS = {"aiohttp": aiohttp_client, "httpx": httpx_client}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("client", choices=CLIENTS)
    parser.add_argument("base_url")
    parser.add_argument("--questions", type=int, default=3000)
    parser.add_argument("--in-flight", type=int, default=512)
    given = parser.parse_args()
    asyncio.run(measure(given.client, given.base_url, given.questions, given.in_flight))
