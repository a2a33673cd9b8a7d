"""Chat completions: what is sent, and what becomes of the usual answers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from meteor_agents.backends.http.openai_compatible import OpenAICompatibleModel
from meteor_agents.backends.http.transport import Network
from meteor_agents.errors import CredentialsError, RefusedCallError, TransientModelError
from meteor_agents.models import FinishReason, SamplingParams
from tests.backends.http.chat_handlers import KEY, MESSAGES, URL, answering, ask, reply


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
    [("length", FinishReason.CUT), ("content_filter", FinishReason.FILTERED), (None, FinishReason.COMPLETE)],
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


def test_refused_request_repeats_the_servers_words_up_to_a_limit() -> None:
    with pytest.raises(RefusedCallError, match="context of 8192 tokens") as caught:
        ask(answering(400, json={"error": {"message": "context of 8192 tokens exceeded " + "x" * 1000}}))
    assert len(str(caught.value)) < 450


@pytest.mark.parametrize("body", ["<html>", "", "welcome", '{"choices": [{"message": {"content": "hal'])
def test_body_that_is_no_json_or_was_cut_off_is_transient(body: str) -> None:
    with pytest.raises(TransientModelError, match="sent no chat completion"):
        ask(answering(text=body))


@pytest.mark.parametrize(
    "body", ["{}", '{"choices": []}', '{"choices": [{"message": 3}]}', "[]", "3", "null", '"x"', "[" * 9999]
)
def test_json_that_holds_no_reply_is_not_bought_again(body: str) -> None:
    with pytest.raises(RefusedCallError, match=r"no answer that meteor can read .* not asked again"):
        ask(answering(text=body))


def test_an_address_may_be_given_with_the_interfaces_own_path() -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(200, json=reply())

    async def run() -> None:
        network = Network(transport=httpx.MockTransport(handler))
        model = OpenAICompatibleModel("m", f"{URL}/chat/completions", network=network)
        await model.complete(MESSAGES, SamplingParams())

    asyncio.run(run())
    assert seen == [f"{URL}/chat/completions"]


def test_beam_search_is_refused() -> None:
    with pytest.raises(RefusedCallError, match="no beam search"):
        ask(answering(json=reply()), SamplingParams(beams=4))
