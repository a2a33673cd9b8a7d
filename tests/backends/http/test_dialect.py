"""Servers differ: what one refuses by name is put as it wants it, said once, and remembered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from meteor_agents.backends.registry import open_model
from meteor_agents.errors import RefusedCallError, SettingsError, TransientModelError
from meteor_agents.method.replies import COMPARISON_SCHEMA, SCORES_SCHEMA, VERDICT_SCHEMA
from meteor_agents.models import ChatMessage, Completion, FinishReason, SamplingParams
from meteor_agents.settings.roles import ModelSettings
from tests.backends.conformance.fake_server import FakeServer
from tests.backends.http.dialect_asking import JUDGING, ask, settings_of


@pytest.fixture(params=["openai", "anthropic"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def refusing(field: str, words: str) -> Callable[[dict[str, Any]], str | None]:
    return lambda body: words if field in body else None


PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
SCHEMA_FIELD = {"openai": "response_format", "anthropic": "output_config"}


def test_a_schema_is_sent_as_the_interface_has_it(backend: str) -> None:
    with FakeServer().running() as server:
        ask(settings_of(backend, server), "SAY:x")
        (body,) = server.asked(PATHS[backend])
    field = body[SCHEMA_FIELD[backend]]
    form = field if backend == "openai" else field["format"]
    assert form["type"] == "json_schema"
    sent = form["json_schema"]["schema"] if backend == "openai" else form["schema"]
    assert sent == json.loads(VERDICT_SCHEMA)


def test_no_schema_is_sent_where_none_is_wanted(backend: str) -> None:
    with FakeServer().running() as server:
        ask(settings_of(backend, server), "SAY:x", sampling=JUDGING.model_copy(update={"json_schema": None}))
        ask(settings_of(backend, server, json_schema=False), "SAY:x")
        assert not any(SCHEMA_FIELD[backend] in body for body in server.asked(PATHS[backend]))


def test_a_refused_schema_is_left_out_from_then_on_and_said_once(backend: str) -> None:
    notes: list[str] = []
    with FakeServer().running() as server:
        server.refuse = refusing(SCHEMA_FIELD[backend], "json_schema is not supported by this model")
        replies = ask(settings_of(backend, server), "SAY:a", "SAY:b", notes=notes)
        assert [reply.text for reply in replies] == ["a", "b"]
        assert len(server.asked(PATHS[backend])) == 3
    (note,) = notes
    assert note.startswith("judge: m: the server refuses")
    assert "asks for JSON in words only" in note


def test_a_model_that_cannot_be_sampled_otherwise_is_asked_without(backend: str) -> None:
    notes: list[str] = []
    sampling = SamplingParams(temperature=0.7, top_p=0.9, max_tokens=9)
    with FakeServer().running() as server:
        server.refuse = lambda body: (
            "`temperature` and `top_p` cannot both be specified"
            if "top_p" in body
            else "Unsupported value: 'temperature' does not support 0.7"
            if "temperature" in body
            else None
        )
        assert ask(settings_of(backend, server), "SAY:a", "SAY:b", sampling=sampling, notes=notes)[1].text == "b"
        assert len(server.asked(PATHS[backend])) == 4
    assert [note.split("refuses ")[1].split(";")[0] for note in notes] == ["top_p", "temperature"]


def test_a_refusal_that_names_no_such_field_is_raised_at_once(backend: str) -> None:
    with FakeServer().running() as server:
        server.refuse = lambda body: "temperature: must be between 0 and 1"
        with pytest.raises(RefusedCallError, match="between 0 and 1"):
            ask(settings_of(backend, server), "SAY:a")
        assert len(server.asked(PATHS[backend])) == 1


def test_a_server_that_refuses_again_and_again_is_not_asked_for_ever(backend: str) -> None:
    with FakeServer().running() as server:
        server.refuse = lambda body: (
            "unsupported: response_format output_config temperature top_p max_completion_tokens"
        )
        with pytest.raises(RefusedCallError, match="unsupported"):
            ask(settings_of(backend, server), "SAY:a")
        assert len(server.asked(PATHS[backend])) <= 5


def test_the_limit_gets_its_newer_name_when_the_server_asks_for_it() -> None:
    notes: list[str] = []
    words = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    with FakeServer().running() as server:
        server.refuse = refusing("max_tokens", words)
        first, second = ask(settings_of("openai", server), "COUNT 99", "COUNT 99", notes=notes)
        bodies = server.asked("/v1/chat/completions")
    assert first.finish_reason is second.finish_reason is FinishReason.CUT
    assert [("max_tokens" in body, body.get("max_completion_tokens")) for body in bodies] == [
        (True, None),
        (False, 40),
        (False, 40),
    ]
    assert len(notes) == 1


def test_a_server_that_knows_the_older_form_of_a_schema_gets_that() -> None:
    """llama.cpp's Python server: it answers 500 to what it finds malformed."""
    notes: list[str] = []
    with FakeServer().running() as server:
        server.refusal_status = 500
        server.refuse = lambda body: (
            "1 validation error: response_format: Input should be 'text' or 'json_object'"
            if body.get("response_format", {}).get("type") == "json_schema"
            else None
        )
        assert [reply.text for reply in ask(settings_of("openai", server), "SAY:a", "SAY:b", notes=notes)] == ["a", "b"]
        sent = [body["response_format"] for body in server.asked("/v1/chat/completions")]
    older = {"type": "json_object", "schema": json.loads(VERDICT_SCHEMA)}
    assert sent[1:] == [older, older]
    assert ["an older form of response_format" in note for note in notes] == [True]


def test_a_server_that_refuses_every_form_of_a_schema_is_asked_in_words() -> None:
    with FakeServer().running() as server:
        server.refuse = lambda body: (
            "response_format must be json_object, which this model cannot" if "response_format" in body else None
        )
        assert ask(settings_of("openai", server), "SAY:a")[0].text == "a"
        assert ["response_format" in body for body in server.asked("/v1/chat/completions")] == [True, True, False]


def test_an_outage_that_mentions_a_field_is_no_refusal() -> None:
    with FakeServer().running() as server:
        server.refusal_status = 500
        server.refuse = lambda body: "unexpected failure of the grammar behind response_format"
        with pytest.raises(TransientModelError):
            ask(settings_of("openai", server), "SAY:a")
        assert len(server.asked("/v1/chat/completions")) == 1


def test_the_newer_name_can_be_set() -> None:
    with FakeServer().running() as server:
        ask(settings_of("openai", server, token_limit="max_completion_tokens"), "SAY:x")
        (body,) = server.asked("/v1/chat/completions")
    assert body["max_completion_tokens"] == 40
    assert "max_tokens" not in body


def test_a_reply_that_is_padded_with_white_space_is_asked_for_without_the_schema(backend: str) -> None:
    notes: list[str] = []
    with FakeServer().running() as server:
        server.pads = True
        (reply,) = ask(settings_of(backend, server), 'SAY:{"a": 1}', notes=notes)
    assert reply.text == '{"a": 1}'
    assert ["white space" in note for note in notes] == [True]


def test_thinking_is_kept_apart_from_the_reply(backend: str) -> None:
    with FakeServer().running() as server:
        (reply,) = ask(settings_of(backend, server), "SAY:THINK, then answer")
    assert (reply.text, reply.reasoning) == ("THINK, then answer", "hmm, let me see")


@pytest.mark.parametrize(
    ("said", "text", "thought"),
    [
        ("<think>\nis it 4?\n</think>\n\nfour", "four", "is it 4?"),
        ("<think>is it", "", "is it"),
        ("use `<think>` tags", "use `<think>` tags", ""),
        ("it is 4</think>four", "four", "it is 4"),
        ("<thought>is it 4?</thought>four", "four", "is it 4?"),
        ("<|channel|>analysis<|message|>is it 4?<|end|><|channel|>final<|message|>four", "four", "is it 4?"),
        ("<think></think>four", "four", ""),
    ],
)
def test_thinking_in_front_of_the_reply_is_kept_apart(said: str, text: str, thought: str) -> None:
    with FakeServer().running() as server:
        (reply,) = ask(settings_of("openai", server), f"SAY:{said}")
    assert (reply.text, reply.reasoning) == (text, thought)


# The Messages API


def test_system_messages_and_limits_go_where_the_messages_api_wants_them() -> None:
    async def run(settings: ModelSettings) -> Completion:
        model = open_model("teacher", settings)
        messages = [
            ChatMessage(role="system", content="Be brief."),
            ChatMessage(role="user", content="Hi"),
            ChatMessage(role="assistant", content="Hello"),
            ChatMessage(role="user", content="COUNT 5"),
        ]
        try:
            return await model.complete(messages, SamplingParams(temperature=0.5, top_p=1, max_tokens=9, stop=("4",)))
        finally:
            await model.aclose()

    with FakeServer().running() as server:
        reply = asyncio.run(run(settings_of("anthropic", server)))
        (body,) = server.asked("/v1/messages")
    assert (reply.text, reply.finish_reason) == ("1 2 3 ", FinishReason.COMPLETE)
    assert body == {
        "model": "m",
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "COUNT 5"},
        ],
        "max_tokens": 9,
        "temperature": 0.5,
        "stop_sequences": ["4"],
    }


def test_a_seed_is_refused_before_the_first_call() -> None:
    with FakeServer().running() as server, pytest.raises(SettingsError, match=r"judge\.sampling\.seed"):
        ask(settings_of("anthropic", server, sampling={"seed": 1}), "SAY:x")


# Schemas


@pytest.mark.parametrize("schema", [VERDICT_SCHEMA, SCORES_SCHEMA, COMPARISON_SCHEMA])
def test_schemas_are_strict(schema: str) -> None:
    content = json.loads(schema)
    assert content["required"] == list(content["properties"])
    assert content["additionalProperties"] is False


def test_sampling_without_a_schema_is_written_as_before() -> None:
    assert "json_schema" not in SamplingParams().model_dump()
    assert "json_schema" not in SamplingParams().model_dump_json()
    assert JUDGING.model_dump()["json_schema"] == VERDICT_SCHEMA
    assert hash(JUDGING) == hash(JUDGING.model_copy())
