from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from meteor_agents.abilities import DecodesBeams, LoadsWeights
from meteor_agents.backends.scripted import ScriptedModel, reply_function
from meteor_agents.errors import RefusedCallError, SettingsError
from meteor_agents.models import ChatMessage, ChatModel, Completion, SamplingParams


def ask(model: ChatModel, *contents: str) -> list[Completion]:
    async def all_in_turn() -> list[Completion]:
        return [await model.complete([ChatMessage(role="user", content=c)], SamplingParams()) for c in contents]

    return asyncio.run(all_in_turn())


def last_word_upper(messages: Sequence[ChatMessage], sampling: SamplingParams) -> str:
    return f"{messages[-1].content.split()[-1].upper()} {sampling.max_tokens}"


def test_replies_come_in_order_and_calls_are_counted() -> None:
    model = ScriptedModel(["one", "two"])
    assert [completion.text for completion in ask(model, "a", "b")] == ["one", "two"]
    assert model.calls == 2


def test_exhausted_list_refuses_and_says_so() -> None:
    model = ScriptedModel(["only"], name="teller")
    ask(model, "a")
    with pytest.raises(RefusedCallError, match=r"'teller' has said all of its 1 replies"):
        ask(model, "b")


def test_cycled_list_starts_again() -> None:
    replies = ask(ScriptedModel(["a", "b"], cycle=True), *"12345")
    assert [reply.text for reply in replies] == ["a", "b", "a", "b", "a"]


def test_function_sees_messages_and_sampling() -> None:
    (reply,) = ask(ScriptedModel(last_word_upper), "say hello")
    assert reply.text == "HELLO 512"
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (2, 2)


def test_loaded_weights_are_on_the_next_reply() -> None:
    model = ScriptedModel(["x"], weights="v1", cycle=True)
    assert isinstance(model, LoadsWeights)
    assert isinstance(model, DecodesBeams)
    before = ask(model, "a")[0].weights
    asyncio.run(model.load_weights(Path("anywhere"), "v2"))
    assert (before, ask(model, "a")[0].weights) == ("v1", "v2")


@pytest.mark.parametrize("replies", [[], "one string"])
def test_no_list_of_replies_is_a_setting_error(replies: Sequence[str]) -> None:
    with pytest.raises(SettingsError, match="needs a list of at least one reply"):
        ScriptedModel(replies)


def test_function_is_found_by_its_reference() -> None:
    assert reply_function("posixpath:join")("a", "b") == "a/b"  # type: ignore[arg-type]  # any callable will do here


@pytest.mark.parametrize("reference", ["no-colon", "absent_module:f", "posixpath:absent", "posixpath:sep", ":f"])
def test_unusable_reference_is_a_setting_error(reference: str) -> None:
    with pytest.raises(SettingsError, match="function"):
        reply_function(reference)
