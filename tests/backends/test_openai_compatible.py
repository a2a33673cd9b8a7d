from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from meteor_agents.backends.http.openai_compatible import OpenAICompatibleModel
from meteor_agents.errors import CredentialsError, ModelError, RefusedCallError, SettingsError, TransientModelError
from meteor_agents.models import ChatMessage, Completion, FinishReason, SamplingParams

KEY = "sk-very-secret-0123456789"
URL = "https://api.example.com/v1"
MESSAGES = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Hello?")]
Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)


def model_of(handler: Handler) -> OpenAICompatibleModel:
    return OpenAICompatibleModel("gpt-test", URL, api_key_env="TEST_KEY", transport=httpx.MockTransport(handler))


def ask(handler: Handler, sampling: SamplingParams | None = None) -> Completion:
    async def run() -> Completion:
        model = model_of(handler)
        try:
            return await model.complete(MESSAGES, sampling or SamplingParams())
        finally:
            await model.aclose()

    return asyncio.run(run())


def reply(**changes: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 2}, **changes}


def answering(status: int = 200, **response: Any) -> Handler:
    return lambda request: httpx.Response(status, **response)


def test_request_carries_messages_sampling_and_key() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=reply())

    ask(handler, SamplingParams(temperature=0, top_p=1, max_tokens=7, stop=("END",), seed=3))
    assert str(seen[0].url) == f"{URL}/chat/completions"
    assert seen[0].headers["Authorization"] == f"Bearer {KEY}"
    assert json.loads(seen[0].content) == {
        "model": "gpt-test",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}],
        "temperature": 0,
        "top_p": 1,
        "max_tokens": 7,
        "stop": ["END"],
        "seed": 3,
    }


def test_reply_becomes_a_completion() -> None:
    completion = ask(answering(json=reply()))
    assert (completion.text, completion.finish_reason) == ("Hi.", FinishReason.COMPLETE)
    assert (completion.usage.input_tokens, completion.usage.output_tokens) == (9, 2)
    assert (completion.model, completion.weights) == ("gpt-test", "gpt-test")


@pytest.mark.parametrize("usage", [{}, {"usage": None}])
def test_absent_usage_is_unknown(usage: dict[str, Any]) -> None:
    body = reply()
    del body["usage"]
    completion = ask(answering(json={**body, **usage}))
    assert (completion.usage.input_tokens, completion.usage.output_tokens) == (None, None)


@pytest.mark.parametrize(
    ("said", "meant"),
    [("length", FinishReason.CUT), ("content_filter", FinishReason.UNKNOWN), (None, FinishReason.UNKNOWN)],
)
def test_finish_reasons_are_translated(said: str | None, meant: FinishReason) -> None:
    body = reply(choices=[{"message": {"content": "x"}, "finish_reason": said}])
    assert ask(answering(json=body)).finish_reason is meant


def test_reasoning_is_no_part_of_the_text() -> None:
    message = {"content": "42", "reasoning_content": "let me think"}
    assert ask(answering(json=reply(choices=[{"message": message, "finish_reason": "stop"}]))).text == "42"


def test_weights_are_what_the_server_reports() -> None:
    assert ask(answering(json=reply(metadata={"weight_version": "refine-003"}))).weights == "refine-003"


@pytest.mark.parametrize("status", [401, 403])
def test_wrong_key_is_a_credentials_error(status: int) -> None:
    with pytest.raises(CredentialsError, match=rf"answered {status} .*bad key"):
        ask(answering(status, json={"error": {"message": "bad key"}}))


@pytest.mark.parametrize("status", [429, 500, 502, 503, 529])
def test_busy_server_is_transient(status: int) -> None:
    with pytest.raises(TransientModelError) as caught:
        ask(answering(status, text="later"))
    assert caught.value.retry_after_s is None


def test_retry_after_in_seconds_is_kept() -> None:
    with pytest.raises(TransientModelError) as caught:
        ask(answering(429, headers={"Retry-After": "2.5"}))
    assert caught.value.retry_after_s == 2.5


def test_retry_after_as_a_date_is_kept() -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    with pytest.raises(TransientModelError) as caught:
        ask(answering(503, headers={"Retry-After": moment}))
    assert caught.value.retry_after_s == pytest.approx(30, abs=3)


def test_retry_after_as_a_date_counts_from_the_servers_own_clock() -> None:
    there = datetime.now(UTC) + timedelta(hours=7)
    headers = {
        "Date": format_datetime(there, usegmt=True),
        "Retry-After": format_datetime(there + timedelta(seconds=5)),
    }
    with pytest.raises(TransientModelError) as caught:
        ask(answering(429, headers=headers))
    assert caught.value.retry_after_s == 5


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [("1.5", 1.5), ("20s", 20), ("6m0s", 360), ("120ms", 0.12), ("1h2m3s", 3723), ("soon", 0), ("", 0)],
)
def test_an_allowance_that_is_used_up_asks_for_a_pause_until_its_reset(reset: str, seconds: float) -> None:
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": reset}
    assert ask(answering(json=reply(), headers=headers)).pause_s == seconds


def test_resets_as_moments_are_understood_and_what_is_left_asks_for_none() -> None:
    moment = datetime.now(UTC) + timedelta(seconds=30)
    spelled = {"rfc": moment.isoformat().replace("+00:00", "Z"), "unix": str(moment.timestamp())}
    for reset in spelled.values():
        headers = {"anthropic-ratelimit-tokens-remaining": "0", "anthropic-ratelimit-tokens-reset": reset}
        assert ask(answering(json=reply(), headers=headers)).pause_s == pytest.approx(30, abs=3)
        headers["anthropic-ratelimit-tokens-remaining"] = "12"
        assert ask(answering(json=reply(), headers=headers)).pause_s == 0


def test_429_without_retry_after_waits_for_the_reset_of_what_is_used_up() -> None:
    headers = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "7s"}
    with pytest.raises(TransientModelError) as caught:
        ask(answering(429, headers=headers))
    assert (caught.value.retry_after_s, caught.value.overload) == (7, True)


def test_a_proxy_of_the_environment_is_used_unless_the_host_is_excepted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(proxy: str) -> Completion:
        monkeypatch.setenv("http_proxy", proxy.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", "excepted.example")
        model = OpenAICompatibleModel("m", "http://model.example/v1", connect_timeout_s=5)
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


def test_senseless_retry_after_is_ignored() -> None:
    with pytest.raises(TransientModelError) as caught:
        ask(answering(503, headers={"Retry-After": "soon"}))
    assert caught.value.retry_after_s is None


def test_refused_request_repeats_the_servers_words_up_to_a_limit() -> None:
    with pytest.raises(RefusedCallError, match="context of 8192 tokens") as caught:
        ask(answering(400, json={"error": {"message": "context of 8192 tokens exceeded " + "x" * 1000}}))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("body", ["<html>", "{}", '{"choices": []}', '{"choices": [{"message": 3}]}', "[]"])
def test_body_that_is_no_completion_is_transient(body: str) -> None:
    with pytest.raises(TransientModelError, match="sent no chat completion"):
        ask(answering(text=body))


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


def test_beam_search_is_refused() -> None:
    with pytest.raises(RefusedCallError, match="no beam search"):
        ask(answering(json=reply()), SamplingParams(beams=4))


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
