"""Proxies, certificates, keys, and what a network can do wrong."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from meteor_agents.backends.http.openai_compatible import OpenAICompatibleModel
from meteor_agents.backends.http.transport import Access, Network
from meteor_agents.errors import ModelError, SettingsError, TransientModelError
from meteor_agents.models import Completion, SamplingParams
from tests.backends.http.chat_handlers import KEY, MESSAGES, URL, answering, ask, model_of, reply


def test_a_proxy_of_the_environment_is_used_unless_the_host_is_excepted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(proxy: str) -> Completion:
        monkeypatch.setenv("http_proxy", proxy.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", "excepted.example")
        model = OpenAICompatibleModel("m", "http://model.example/v1", network=Network(connect_timeout_s=5))
        try:
            return await model.complete(MESSAGES, SamplingParams())
        finally:
            await model.aclose()

    assert served(json.dumps(reply()).encode(), test).text == "Hi."
    monkeypatch.setenv("no_proxy", "model.example")
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    asyncio.run(OpenAICompatibleModel("m", "http://model.example/v1").aclose())


def test_a_proxy_that_cannot_be_used_is_a_setting_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1080")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(SettingsError, match="set HTTPS_PROXY to one"):
        OpenAICompatibleModel("m", URL)


@pytest.mark.parametrize(
    ("error", "said"),
    [(httpx.ConnectError("refused"), "no connection"), (httpx.ReadTimeout("slow"), "no reply in time")],
)
def test_network_failures_are_transient(error: httpx.TransportError, said: str) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise error

    with pytest.raises(TransientModelError, match=said):
        ask(handler)


@pytest.mark.parametrize("status", [200, 400, 401, 429, 500])
def test_key_is_never_shown_even_when_the_server_repeats_it(status: int) -> None:
    for echo in (f"bad key {KEY}", json.dumps({"error": {"message": f"Bearer {KEY} is wrong"}})):
        with pytest.raises(ModelError) as caught:
            ask(answering(status, text=echo))
        shown = "".join(traceback.format_exception(caught.value))
        assert KEY not in shown
        assert "***" in str(caught.value)


def test_key_is_not_in_a_network_error() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError(f"header {request.headers['Authorization']} not sent", request=request)

    with pytest.raises(TransientModelError) as caught:
        ask(handler)
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_key_is_not_in_the_repr() -> None:
    model = model_of(answering())
    assert KEY not in repr(model)
    assert KEY not in repr(vars(model))


def test_missing_key_is_a_setting_error_that_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_KEY")
    with pytest.raises(SettingsError, match="TEST_KEY is not set"):
        model_of(answering())


@pytest.mark.parametrize("url", ["api.example.com/v1", "ftp://x/v1", "http://"])
def test_base_url_that_is_none_is_a_setting_error(url: str) -> None:
    with pytest.raises(SettingsError, match="base_url"):
        OpenAICompatibleModel("m", url)


@pytest.mark.parametrize("key", ["sk-\u200bplanted", "sk-plan\nted", "sk-plantéd"])
def test_a_key_that_no_header_can_hold_is_a_setting_error_that_does_not_show_it(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("TEST_KEY", key)
    with pytest.raises(SettingsError, match="TEST_KEY holds") as caught:
        model_of(answering())
    assert "plan" not in str(caught.value)
    with pytest.raises(SettingsError, match="not ASCII"):
        OpenAICompatibleModel("m", URL, access=Access(headers={"X-Team": "é"}))


def test_many_calls_at_once_over_real_sockets() -> None:
    async def test(base_url: str) -> list[Completion]:
        model = OpenAICompatibleModel("m", base_url)
        try:
            return await asyncio.gather(*(model.complete(MESSAGES, SamplingParams()) for _ in range(100)))
        finally:
            await model.aclose()

    completions = served(json.dumps(reply()).encode(), test)
    assert [completion.text for completion in completions] == ["Hi."] * 100


def test_server_that_hangs_up_is_transient() -> None:
    async def test(base_url: str) -> None:
        model = OpenAICompatibleModel("m", base_url)
        try:
            with pytest.raises(TransientModelError):
                await model.complete(MESSAGES, SamplingParams())
        finally:
            await model.aclose()

    served(b"", test, hang_up=True)


def test_closed_port_is_transient() -> None:
    async def test(base_url: str) -> str:
        return base_url

    gone = served(b"", test)

    async def run() -> None:
        model = OpenAICompatibleModel("m", gone)
        try:
            await model.complete(MESSAGES, SamplingParams())
        finally:
            await model.aclose()

    with pytest.raises(TransientModelError, match="no connection"):
        asyncio.run(run())


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    return await reader.readexactly(length)


def served(body: bytes, test: Callable[[str], Any], *, hang_up: bool = False) -> Any:
    """Run `test(base_url)` against a real socket that answers everything with `body`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await read_request(reader)
                if hang_up:
                    break
                head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
                await writer.drain()
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def run() -> Any:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            return await test(f"http://127.0.0.1:{port}/v1")
        finally:
            server.close()

    return asyncio.run(run())
