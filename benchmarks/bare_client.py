"""What the calls of a workload cost without a pipeline: the same two chained calls a question, nothing kept.

    python benchmarks/bare_client.py aiohttp http://127.0.0.1:PORT/v1 --questions 3000 --in-flight 512

`aiohttp` is plain aiohttp; `httpx` is `backends/http/openai_compatible.py` without limits, store or engine; the others are
transports that it could use (`pyreqwest` and `--uvloop` need the package of that name).
Prints one JSON object: seconds, and CPU seconds of the calls alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time
from collections.abc import Awaitable, Callable
from typing import Any

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
            return _text(await response.read())

    return ask, session.close


def httpx_client(base_url: str, in_flight: int) -> tuple[Ask, Close]:
    from meteor_agents.backends.http.openai_compatible import OpenAICompatibleModel
    from meteor_agents.backends.http.transport import Network
    from meteor_agents.models import ChatMessage, SamplingParams

    network = Network(connections=in_flight)
    models = {name: OpenAICompatibleModel(name, base_url, network=network) for name in ("student", "judge")}
    messages, sampling = [ChatMessage(role="user", content=PROMPT)], SamplingParams()

    async def ask(model: str) -> str:
        return (await models[model].complete(messages, sampling)).text

    async def close() -> None:
        for model in models.values():
            await model.aclose()

    return ask, close


def httpx_own_client(base_url: str, in_flight: int) -> tuple[Ask, Close]:
    """`httpx.AsyncClient` over httpx-aiohttp, as its documentation has it."""
    import httpx
    from httpx_aiohttp import HttpxAiohttpClient

    client = HttpxAiohttpClient(limits=httpx.Limits(max_connections=in_flight), timeout=120)
    url = f"{base_url}/chat/completions"

    async def ask(model: str) -> str:
        return _text((await client.post(url, content=_body(model), headers=JSON)).content)

    return ask, client.aclose


def httpx_aiohttp_transport(base_url: str, in_flight: int) -> tuple[Ask, Close]:
    import httpx
    from httpx_aiohttp import AiohttpTransport

    return _straight(AiohttpTransport(limits=httpx.Limits(max_connections=in_flight)), base_url)


def pyreqwest_transport(base_url: str, in_flight: int) -> tuple[Ask, Close]:
    from pyreqwest.client import ClientBuilder
    from pyreqwest.compatibility.httpx import HttpxTransport

    return _straight(HttpxTransport(ClientBuilder().build()), base_url)


def _straight(transport: Any, base_url: str) -> tuple[Ask, Close]:
    """An `httpx.Request` handed to the transport, without a client."""
    import httpx

    url = httpx.URL(f"{base_url}/chat/completions")

    async def ask(model: str) -> str:
        request = httpx.Request("POST", url, content=_body(model), headers=JSON)
        response = await transport.handle_async_request(request)
        return _text(await response.aread())

    return ask, transport.aclose


def _body(model: str) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 512}).encode()


def _text(content: bytes) -> str:
    text: str = json.loads(content)["choices"][0]["message"]["content"]
    return text


JSON = {"Content-Type": "application/json"}
CLIENTS = {
    "aiohttp": aiohttp_client,
    "httpx": httpx_client,
    "httpx-client": httpx_own_client,
    "httpx-aiohttp": httpx_aiohttp_transport,
    "pyreqwest": pyreqwest_transport,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("client", choices=CLIENTS)
    parser.add_argument("base_url")
    parser.add_argument("--questions", type=int, default=3000)
    parser.add_argument("--in-flight", type=int, default=512)
    parser.add_argument("--uvloop", action="store_true")
    given = parser.parse_args()
    if given.uvloop:
        import uvloop

        uvloop.install()
    asyncio.run(measure(given.client, given.base_url, given.questions, given.in_flight))
