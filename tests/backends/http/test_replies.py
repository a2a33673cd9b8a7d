"""A reply that was paid for is kept wherever its text stands; what is not needed cannot fail it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meteor_agents.errors import RefusedCallError
from meteor_agents.models import Completion, FinishReason
from tests.backends.http.raw_server import Reply, answer_to

USAGE = {"prompt_tokens": 9, "completion_tokens": 2}


def chat(message: Any, **more: Any) -> Completion:
    return answer_to(Reply.of({"choices": [{"message": message, "finish_reason": "stop"}], "usage": USAGE, **more}))


def text_and_thoughts(reply: Completion) -> tuple[str, str]:
    return reply.text, reply.reasoning


@pytest.mark.parametrize(
    "content",
    [
        "Hi there.",
        [{"type": "text", "text": "Hi there."}],
        [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there."}],
        [{"type": "output_text", "text": "Hi there.", "annotations": []}],
        ["Hi ", "there."],
        {"type": "text", "text": "Hi there."},
        [{"type": "text", "text": {"value": "Hi there."}}, {"type": "image_url", "image_url": {}}],
    ],
)
def test_content_in_parts_is_joined(content: Any) -> None:
    assert chat({"role": "assistant", "content": content}).text == "Hi there."


@pytest.mark.parametrize(
    "message",
    [
        {"content": "42", "reasoning_content": "hmm"},
        {"content": "42", "reasoning": "hmm"},
        {"content": "42", "thinking": "hmm"},
        {"content": "<think>hmm</think>42"},
        {"content": "hmm</think>\n42"},
        {"content": "42", "reasoning": [{"type": "text", "text": "hmm"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hmm"}]}, {"type": "text", "text": "42"}]},
        {"content": [{"type": "reasoning", "text": "hmm"}, {"type": "text", "text": "42"}]},
        {"content": [{"type": "text", "text": "hmm", "thought": True}, {"type": "text", "text": "42"}]},
        {"content": "<think>hmm</think>42", "reasoning_content": "hmm"},
    ],
)
def test_thoughts_are_no_part_of_the_reply(message: dict[str, Any]) -> None:
    assert text_and_thoughts(chat(message)) == ("42", "hmm")


@pytest.mark.parametrize("reasoning", [{"effort": "low"}, 5, True, [], [None], {"a": {"b": []}}, None])
def test_reasoning_that_is_no_text_is_ignored(reasoning: Any) -> None:
    assert text_and_thoughts(chat({"content": "42", "reasoning": reasoning})) == ("42", "")


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"prompt_tokens": 5.5, "completion_tokens": 2}, (None, 2)),
        ({"prompt_tokens": 5.0, "completion_tokens": 2.0}, (5, 2)),
        ({"prompt_tokens": -1_000_000, "completion_tokens": -1}, (None, None)),
        ({"prompt_tokens": 10**30, "completion_tokens": 10**18}, (None, None)),
        ({"prompt_tokens": "9", "completion_tokens": True}, (None, None)),
        ({"prompt_tokens": [9], "completion_tokens": {"a": 1}}, (None, None)),
        ({"input_tokens": 9, "output_tokens": 2}, (9, 2)),
        ([1, 2], (None, None)),
        ("9", (None, None)),
        (None, (None, None)),
    ],
)
def test_usage_that_is_no_count_is_unknown(usage: Any, counted: tuple[int | None, int | None]) -> None:
    reply = chat({"content": "Hi."}, usage=usage)
    assert reply.text == "Hi."
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == counted


@pytest.mark.parametrize("number", [b"1e999", b"NaN", b"-Infinity", b"9" * 400, b"9" * 5000])
def test_usage_that_no_number_can_hold_is_unknown(number: bytes) -> None:
    body = b'{"choices": [{"message": {"content": "Hi."}}], "usage": {"prompt_tokens": %b, "completion_tokens": %b}}'
    reply = answer_to(Reply(body % (number, number)))
    assert (reply.text, reply.usage.input_tokens, reply.usage.output_tokens) == ("Hi.", None, None)


@pytest.mark.parametrize(
    "more",
    [
        {"metadata": 5}, {"metadata": {"weight_version": 7}}, {"id": None}, {"created": "x"}, {"choices_": []},
        {"error": None}, {"error": {}}, {"system_fingerprint": ["x"]},
    ],
)  # fmt: skip
def test_fields_that_are_not_needed_cannot_fail_a_reply(more: dict[str, Any]) -> None:
    reply = chat({"role": 3, "content": "Hi.", "tool_calls": None, "refusal": None, "annotations": 1}, **more)
    assert (reply.text, reply.finish_reason, reply.weights) == ("Hi.", FinishReason.COMPLETE, "m")


def test_other_places_for_the_text_are_known() -> None:
    assert answer_to(Reply.of({"choices": [{"text": "Hi.", "finish_reason": "stop"}]})).text == "Hi."
    assert answer_to(Reply.of({"choices": {"message": {"content": "Hi."}}})).text == "Hi."
    ollama = {"message": {"content": "Hi."}, "done": True, "done_reason": "length", "prompt_eval_count": 4, "eval_count": 2}
    reply = answer_to(Reply.of(ollama))
    assert (reply.text, reply.finish_reason, reply.usage.input_tokens) == ("Hi.", FinishReason.CUT, 4)


@pytest.mark.parametrize("content", [42, True, {"status": "correct"}, [{"type": "image_url"}], [[]]])
def test_content_that_holds_no_text_is_refused_once(content: Any) -> None:
    with pytest.raises(RefusedCallError, match="no text"):
        chat({"content": content})


# Bytes


FINE = json.dumps({"choices": [{"message": {"content": "naïve"}, "finish_reason": "stop"}]}, ensure_ascii=False)


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + FINE.encode(),
        FINE.encode("utf-16"),
        FINE.encode("utf-32"),
        ("\n\n  \r\n" + FINE + "\n").encode(),
        (FINE + "\n<!-- served by x -->").encode(),
        (": PROCESSING\n\n" + FINE).encode(),
        json.dumps(json.loads(FINE), indent=2).encode(),
    ],
)
def test_bytes_around_the_json_do_not_lose_it(body: bytes) -> None:
    assert answer_to(Reply(body)).text == "naïve"


def test_line_breaks_within_strings_and_bytes_that_are_no_utf_8_are_kept_as_far_as_they_can_be() -> None:
    assert answer_to(Reply(FINE.replace("naïve", "two\nlines\t.").encode())).text == "two\nlines\t."
    assert answer_to(Reply(FINE.encode("latin-1"))).text == "na\ufffdve"


# Streams that nobody asked for


def sse(*events: Any, done: bool = True, end: str = "\n\n") -> Reply:
    lines = [f"data: {json.dumps(event)}" for event in events] + (["data: [DONE]"] if done else [])
    return Reply(end.join([*lines, ""]).encode(), headers={"Content-Type": "text/event-stream"})


def delta(finish: str | None = None, **content: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": content, "finish_reason": finish}]}


EVENTS = (
    delta(role="assistant", content=""), delta(reasoning_content="h"), delta(reasoning_content="mm"), delta(content="Hi "),
    delta(content="there."), delta(finish="stop"), {"choices": [], "usage": USAGE},
)  # fmt: skip


@pytest.mark.parametrize(
    "reply",
    [
        sse(*EVENTS),
        sse(*EVENTS, done=False),
        sse(*EVENTS, end="\n"),
        sse(*EVENTS, end="\r\n\r\n"),
        Reply(b": a comment\n\nevent: message\nid: 1\n" + bytes(sse(*EVENTS).body)),  # type: ignore[arg-type]
        Reply("\n".join(map(json.dumps, EVENTS)).encode()),
        Reply.of(list(EVENTS)),
        Reply(b"\xef\xbb\xbf" + bytes(sse(*EVENTS).body)),  # type: ignore[arg-type]
    ],
)
def test_a_stream_is_joined(reply: Reply) -> None:
    joined = answer_to(reply)
    assert text_and_thoughts(joined) == ("Hi there.", "hmm")
    assert joined.finish_reason is FinishReason.COMPLETE
    assert (joined.usage.input_tokens, joined.usage.output_tokens) == (9, 2)


def test_a_stream_that_broke_off_has_failed_and_keeps_its_text() -> None:
    broken = answer_to(sse(*EVENTS[:4], done=False))
    assert (broken.text, broken.finish_reason) == ("Hi ", FinishReason.FAILED)
    whole = bytes(sse(*EVENTS, done=False).body)  # type: ignore[arg-type]
    assert answer_to(Reply(whole[: whole.index(b"there") + 2])).finish_reason is FinishReason.FAILED


def test_only_the_first_choice_of_a_stream_counts() -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "no"}}]}
    assert answer_to(sse(delta(content="yes"), other, delta("stop"))).text == "yes"


def test_a_stream_of_whole_messages_is_joined() -> None:
    last = {"message": {"content": "you"}, "done": True, "done_reason": "stop"}
    lines = [{"message": {"content": "Hi "}, "done": False}, last]
    reply = answer_to(Reply("\n".join(map(json.dumps, lines)).encode()))
    assert (reply.text, reply.finish_reason) == ("Hi you", FinishReason.COMPLETE)


# The Messages API


def message(content: Any, **more: Any) -> Completion:
    body = {"type": "message", "content": content, "stop_reason": "end_turn", "usage": {"input_tokens": 5}, **more}
    return answer_to(Reply.of(body), interface="anthropic")


def test_thinking_blocks_are_no_part_of_a_message() -> None:
    blocks = [
        {"type": "thinking", "thinking": "hmm", "signature": "x"},
        {"type": "redacted_thinking", "data": "b64"},
        {"type": "text", "text": "4"},
        {"type": "text", "text": "2", "citations": None},
    ]
    assert text_and_thoughts(message(blocks)) == ("42", "hmm")
    assert message("42").text == "42"


@pytest.mark.parametrize("usage", [None, 5, {"input_tokens": 5.5}, {"input_tokens": -1}, {"input_tokens": 10**30}])
def test_usage_of_a_message_that_is_no_count_is_unknown(usage: Any) -> None:
    reply = message([{"type": "text", "text": "x"}], usage=usage)
    assert (reply.text, reply.usage.input_tokens) == ("x", None)


def test_tokens_of_the_cache_count_as_input() -> None:
    usage = {"input_tokens": 5, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 2, "output_tokens": 1}
    assert message([{"type": "text", "text": "x"}], usage=usage).usage.input_tokens == 10


def test_a_stream_of_the_messages_api_is_joined() -> None:
    events = [
        {"type": "message_start", "message": {"content": [], "stop_reason": None, "usage": {"input_tokens": 9}}},
        {"type": "ping"},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hmm"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "x"}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Hi "}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "there."}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ]
    reply = answer_to(sse(*events, done=False), interface="anthropic")
    assert text_and_thoughts(reply) == ("Hi there.", "hmm")
    assert reply.finish_reason is FinishReason.COMPLETE
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (9, 2)
    broken = answer_to(sse(*events[:-2], done=False), interface="anthropic")
    assert (broken.text, broken.finish_reason) == ("Hi there.", FinishReason.FAILED)


@pytest.mark.parametrize("content", [None, 5, {}, [{"type": "image"}]])
def test_a_message_without_text_is_refused_once(content: Any) -> None:
    with pytest.raises(RefusedCallError, match="not asked again"):
        message(content, stop_reason=None)
