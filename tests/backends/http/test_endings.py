"""Every documented way in which a reply ends, by what it means: only a whole reply may be used."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from meteor_agents.backends.http.endings import ending
from meteor_agents.models import Completion, FinishReason
from tests.backends.http.raw_server import Reply, answer_to

COMPLETE, CUT, REFUSED, FILTERED = (
    FinishReason.COMPLETE, FinishReason.CUT, FinishReason.REFUSED, FinishReason.FILTERED,
)  # fmt: skip
FAILED, PAUSED, UNKNOWN = FinishReason.FAILED, FinishReason.PAUSED, FinishReason.UNKNOWN

CHAT = {
    "OpenAI": {"stop": COMPLETE, "length": CUT, "tool_calls": PAUSED, "content_filter": FILTERED, "function_call": PAUSED},
    "vLLM and SGLang": {"abort": FAILED, "eos": COMPLETE, "eos_token": COMPLETE, "stop_sequence": COMPLETE},
    "Mistral": {"model_length": CUT, "error": FAILED},
    "Gemini": {
        "STOP": COMPLETE, "MAX_TOKENS": CUT, "SAFETY": FILTERED, "RECITATION": FILTERED, "BLOCKLIST": FILTERED,
        "PROHIBITED_CONTENT": FILTERED, "SPII": FILTERED, "OTHER": UNKNOWN, "MALFORMED_FUNCTION_CALL": FAILED,
        "FINISH_REASON_UNSPECIFIED": UNKNOWN, "FinishReason.MAX_TOKENS": CUT, "IMAGE_SAFETY": FILTERED,
        "UNEXPECTED_TOOL_CALL": FAILED,
    },
    "DeepSeek": {"insufficient_system_resource": FAILED},
    "Cohere": {"COMPLETE": COMPLETE, "ERROR_TOXIC": FILTERED, "ERROR_LIMIT": CUT, "USER_CANCEL": FAILED},
    "Zhipu": {"sensitive": FILTERED, "network_error": FAILED},
    "no one": {"a new reason": UNKNOWN, "stopped": UNKNOWN},
}  # fmt: skip
MESSAGES_API = {
    "end_turn": COMPLETE, "stop_sequence": COMPLETE, "max_tokens": CUT, "tool_use": PAUSED, "pause_turn": PAUSED,
    "refusal": REFUSED, "model_context_window_exceeded": CUT, "a new reason": UNKNOWN,
}  # fmt: skip


def chat(message: Any = None, finish: Any = "stop", usage: Any = None, **choice: Any) -> Completion:
    message = {"role": "assistant", "content": "Hi."} if message is None else message
    choices = [{"index": 0, "message": message, "finish_reason": finish, **choice}]
    return answer_to(Reply.of({"choices": choices, "usage": usage}))


def said(content: Any, reason: Any) -> Completion:
    return answer_to(Reply.of({"type": "message", "content": content, "stop_reason": reason}), interface="anthropic")


@pytest.mark.parametrize(
    ("name", "meaning"), [pytest.param(*pair, id=pair[0]) for names in CHAT.values() for pair in names.items()]
)
def test_endings_of_chat_completions(name: str, meaning: FinishReason) -> None:
    reply = chat(finish=name)
    assert (reply.finish_reason, reply.text) == (meaning, "Hi.")


@pytest.mark.parametrize(("name", "meaning"), MESSAGES_API.items())
def test_endings_of_the_messages_api(name: str, meaning: FinishReason) -> None:
    reply = said([{"type": "text", "text": "Hi."}], name)
    assert (reply.finish_reason, reply.text) == (meaning, "Hi.")


@pytest.mark.parametrize("finish", [None, "", " "])
def test_a_reply_without_a_reason_is_complete_unless_its_tokens_are_used_up(finish: str | None) -> None:
    assert chat(finish=finish).finish_reason is COMPLETE
    assert chat(finish=finish, usage={"completion_tokens": 49}).finish_reason is COMPLETE
    assert chat(finish=finish, usage={"completion_tokens": 50}).finish_reason is CUT


def test_a_message_without_a_reason_ended_in_an_unknown_way() -> None:
    assert said([{"type": "text", "text": "Hi."}], None).finish_reason is UNKNOWN


@pytest.mark.parametrize("finish", [5, True, ["stop"], {"kind": "x"}])
def test_a_reason_that_is_no_text_is_unknown(finish: Any) -> None:
    assert chat(finish=finish).finish_reason is UNKNOWN


def test_a_gateway_that_says_stop_for_a_cut_reply_is_not_believed() -> None:
    assert chat(native_finish_reason="MAX_TOKENS").finish_reason is CUT
    assert chat(native_finish_reason="refusal").finish_reason is REFUSED
    assert chat(native_finish_reason="completed").finish_reason is COMPLETE
    assert chat(finish=None, native_finish_reason="SAFETY").finish_reason is FILTERED
    assert chat(finish="length", native_finish_reason="STOP").finish_reason is CUT


def test_an_error_within_a_choice_that_has_text_has_failed_and_keeps_the_text() -> None:
    reply = chat(finish="stop", error={"code": 502, "message": "the provider hung up"})
    assert (reply.finish_reason, reply.text) == (FAILED, "Hi.")


def test_a_refusal_is_told_and_is_no_answer() -> None:
    reply = chat({"role": "assistant", "content": None, "refusal": "I can't help with that."})
    assert (reply.finish_reason, reply.text) == (REFUSED, "I can't help with that.")


@pytest.mark.parametrize("finish", ["tool_calls", "stop", None])
def test_a_call_of_a_tool_is_no_whole_reply(finish: str | None) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    reply = chat({"role": "assistant", "content": None, "tool_calls": [call]}, finish)
    assert (reply.finish_reason, reply.text) == (PAUSED, "")
    block = {"type": "tool_use", "id": "1", "name": "f", "input": {}}
    assert said([block], "tool_use").finish_reason is PAUSED


def test_a_filtered_reply_without_content_is_a_reply() -> None:
    assert chat({"role": "assistant"}, "SAFETY").finish_reason is FILTERED
    assert chat({"role": "assistant", "content": None}, "content_filter").text == ""
    assert said([], "refusal").finish_reason is REFUSED


def test_the_table_of_endings_in_the_docs_is_true() -> None:
    docs = (Path(__file__).resolve().parents[3] / "docs" / "backends.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (complete|cut|refused|filtered|failed|paused|unknown) \| (.*) \|$", docs, re.MULTILINE)
    told = {(meaning, name) for meaning, names in rows for name in re.findall(r"`([^`]+)`", names)}
    assert len(rows) == len(FinishReason)
    assert told == {(ending(name).name.lower(), name) for _, name in told}
