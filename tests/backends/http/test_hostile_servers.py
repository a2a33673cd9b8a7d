"""Whatever a server sends, a call ends in a reply or in an error of ours, soon, and within bounds of memory."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meteor_agents.backends.http.body import MOST_BYTES, MOST_ERROR_BYTES
from meteor_agents.backends.http.openai_compatible import OpenAICompatibleModel
from meteor_agents.backends.http.transport import Network
from meteor_agents.errors import CredentialsError, ModelError, RefusedCallError, TransientModelError
from meteor_agents.models import Completion
from tests.backends.http.raw_server import Reply, answer_to, outcome

INTERFACES = ("openai", "anthropic")
STATUSES = (200, 201, 400, 401, 402, 404, 413, 422, 429, 500, 503, 529)


def storable(result: Completion | ModelError) -> bool:
    """UTF-8 and SQLite can hold what is kept of it."""
    shown = [result.text, result.reasoning, result.weights] if isinstance(result, Completion) else [str(result)]
    return all("\0" not in text and text.encode() is not None for text in shown)


# Text that cannot be stored, printed or counted


@pytest.mark.parametrize("interface", INTERFACES)
@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize(
    "body",
    [
        rb'{"error":{"message":"x \ud83d"}}',
        rb'{"error":{"message":"x \u0000 y","type":"\udc00","code":"\ud800"}}',
        b'{"error":{"message":"\x1b]52;c;eA==\x07\x1b[2J"}}',
        b"[" * 200_000,
        b'{"error":' * 50_000,
        b"[" + b"9" * 400 + b"," + b"[" * 200_000,
        b'["\n",' + b"[" * 200_000,
        b'{"a":' + b"[" * 99 + b"]" * 99 + b"}",
        b'{"error":{"message":"m","code":' + b"9" * 5000 + b"}}",
        b'{"error":{"message":' + b"1" + b"0" * 4000 + b"}}",
        b"\x00" * 1000,
        b"\xff\xfe\xfd",
        b"\xff" * 5000,
        b"",
        b'{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":1' + b"0" * 30 + b"}}",
        b'{"content":[{"type":"text","text":"\\ud83d"}],"stop_reason":"\\udc00"}',
        b'{"choices":[{"message":{"content":"\\ud83d\\u0000","reasoning":"\\ud83d"},"finish_reason":"\\ud83d"}],'
        b'"metadata":{"weight_version":"\\ud83d"}}',
        b'{"choices":[{"message":{"content":"a\x00b"}}]}',
        b"data: " * 20_000,
    ],
)
def test_text_of_any_kind_becomes_a_reply_or_one_failed_call(interface: str, status: int, body: bytes) -> None:
    result = outcome(interface, status, body)
    assert storable(result)
    if isinstance(result, ModelError):
        assert len(str(result)) < 1200
        assert not any(code in str(result) for code in "\x1b\x07\0")


def test_half_an_emoji_in_a_reply_is_replaced_over_a_real_socket() -> None:
    message = {"content": "x \ud83d", "reasoning_content": "y \ud83d\0"}
    reply = answer_to(Reply.of({"choices": [{"message": message, "finish_reason": "stop"}]}))
    assert (reply.text, reply.reasoning) == ("x \ufffd", "y \ufffd\ufffd")
    with pytest.raises(RefusedCallError, match="x \ufffd"):
        answer_to(Reply(rb'{"error":{"message":"x \ud83d"}}', 400))
    with pytest.raises(TransientModelError, match="answered 500"):
        answer_to(Reply(rb'{"error":{"message":"x \ud83d"}}', 500))


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    ["choices", "message", "delta", "content", "text", "type", "thinking", "error", "code", "usage", "prompt_tokens",
     "index", "finish_reason", "stop_reason", "metadata", "headers", "details", "reasoning", "errors", "detail", "role",
     "status"],
)  # fmt: skip
LIKE_A_REPLY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["stop", "text", "thinking", "x", "402", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=25,
)
MANY = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])


@MANY
@given(st.sampled_from(INTERFACES), st.sampled_from(STATUSES), ANY_JSON | LIKE_A_REPLY)
def test_any_json_becomes_a_reply_or_an_error_of_ours(interface: str, status: int, content: Any) -> None:
    assert storable(outcome(interface, status, json.dumps(content).encode()))


@MANY
@given(st.sampled_from(INTERFACES), st.lists(LIKE_A_REPLY, max_size=4))
def test_any_stream_becomes_a_reply_or_an_error_of_ours(interface: str, events: list[Any]) -> None:
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()
    assert storable(outcome(interface, 200, body))


@MANY
@given(
    st.sampled_from(INTERFACES),
    st.sampled_from(STATUSES),
    st.binary(max_size=300),
    st.sampled_from(["", "gzip", "deflate", "br", "gzip, gzip", "identity", "x" * 100]),
)
def test_any_bytes_become_a_reply_or_an_error_of_ours(interface: str, status: int, body: bytes, encoding: str) -> None:
    assert storable(outcome(interface, status, body, {"content-encoding": encoding} if encoding else {}))


def test_a_hostile_choice_of_words_takes_no_long_time() -> None:
    started = time.perf_counter()
    for words in ("exceed " * 100_000, "model " * 100_000, "max_tokens" * 50_000, "retry in 1s" * 50_000, "quota " * 99_999):
        assert isinstance(outcome("openai", 400, json.dumps({"error": {"message": words}}).encode()), ModelError)
    many = b'{"choices":[{"message":{"content":"' + b"<think>" * 100_000 + b'"}}]}'
    outcome("openai", 200, many)
    for body in (b"data: 1\n\n" * 500_000, b"{\n" * 1_000_000, b"[" + b"[]," * 3_000_000 + b"[]]", b"data: {}\n" * 100_000):
        assert isinstance(outcome("openai", 200, body), ModelError)
    assert time.perf_counter() - started < 20


# Size


def test_a_gzip_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(b"0" * (8 * MOST_BYTES), 1)
    tracemalloc.start()
    with pytest.raises(RefusedCallError, match=r"longer than 32 MB .* lower sampling\.max_tokens"):
        answer_to(Reply(bomb, headers={"Content-Encoding": "gzip"}))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4 * MOST_BYTES


def test_a_body_without_an_end_is_left() -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while True:
            sent += 2**16
            yield b" " * 2**16

    with pytest.raises(RefusedCallError, match="was not read to its end"):
        answer_to(Reply(endless))
    assert sent < 3 * MOST_BYTES


@pytest.mark.parametrize("status", [400, 401, 500])
def test_an_error_without_an_end_is_an_error_by_its_status(status: int) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b'{"error": {"message": "'
        while True:
            sent += 2**16
            yield b"x" * 2**16

    kinds = {400: RefusedCallError, 401: CredentialsError, 500: TransientModelError}
    with pytest.raises(kinds[status], match=f"answered {status}"):
        answer_to(Reply(endless, status))
    assert sent < 20 * MOST_ERROR_BYTES


FINE = json.dumps({"choices": [{"message": {"content": "Hi."}, "finish_reason": "stop"}]}).encode()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(FINE)),
        ("x-gzip", gzip.compress(FINE)),
        ("GZIP", gzip.compress(FINE) + b"what is behind it"),
        ("deflate", zlib.compress(FINE)),
        ("deflate", zlib.compress(FINE)[2:-4]),
        ("gzip", FINE),
        ("identity", FINE),
    ],
)
def test_a_packed_reply_is_unpacked(encoding: str, body: bytes) -> None:
    assert answer_to(Reply(body, headers={"Content-Encoding": encoding})).text == "Hi."


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip"])
def test_a_packing_that_was_not_asked_for_is_told(encoding: str) -> None:
    with pytest.raises(TransientModelError, match="not asked for"):
        answer_to(Reply(FINE, headers={"Content-Encoding": encoding}))


def test_a_list_of_models_of_any_kind_gives_facts_or_none() -> None:
    async def facts(body: bytes) -> tuple[int, int | None]:
        transport = httpx.MockTransport(lambda request: httpx.Response(200, content=body))
        found = await OpenAICompatibleModel("m", "http://server.example/v1", network=Network(transport=transport)).facts()
        return len(found.served), found.context

    assert asyncio.run(facts(b"[" * 200_000)) == (0, None)
    assert asyncio.run(facts(b'{"data": [{"id": "m", "max_model_len": 1e99, "context_length": 8}]}')) == (1, 8)
    assert asyncio.run(facts(b'{"data": [{"id": 5}, {"id": "m", "meta": {"n_ctx": 4}}, 3]}')) == (1, 4)
    assert asyncio.run(facts(b'{"data": 5}')) == (0, None)
    assert asyncio.run(facts(b"data: 5")) == (0, None)
