"""Anthropic's Messages API, and servers that speak it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from meteor_agents.backends.http.chat_reply import Read, UnreadableReply, joined, text_parts, usage_of
from meteor_agents.backends.http.dialect import OptionalField
from meteor_agents.backends.http.endings import ending
from meteor_agents.backends.http.failures import error_within
from meteor_agents.backends.http.openai_compatible import OpenAICompatibleModel
from meteor_agents.models import ChatMessage, FinishReason, SamplingParams
from meteor_agents.thoughts import split_thoughts

VERSION = "2023-06-01"
"""The API version that is sent in the header `anthropic-version`."""
FIELDS = (
    OptionalField("output_config", ("output_config", "json_schema", "structured output"), schema=True),
    OptionalField("top_p", ("top_p",)),
    OptionalField("temperature", ("temperature",)),
)


class AnthropicModel(OpenAICompatibleModel):
    """POSTs to `{base_url}/v1/messages`; otherwise as `OpenAICompatibleModel`: key, headers, errors, transport.

    The system messages go into a field of their own. The interface has no seeds: `seed` is not sent.
    """

    path = "/v1/messages"
    models_path = "/v1/models"
    fields = FIELDS

    def _own_headers(self, key: str | None) -> dict[str, str]:
        return {"anthropic-version": VERSION, **({"x-api-key": key} if key else {})}

    def _body(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> dict[str, Any]:
        system = "\n\n".join(message.content for message in messages if message.role == "system")
        body: dict[str, Any] = {
            "model": self._name,
            "messages": [message.model_dump() for message in messages if message.role != "system"],
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
        }
        if system:
            body["system"] = system
        if sampling.top_p < 1:  # some models take one of the two only
            body["top_p"] = sampling.top_p
        if sampling.stop:
            body["stop_sequences"] = list(sampling.stop)
        if sampling.json_schema is not None:
            body["output_config"] = {"format": {"type": "json_schema", "schema": json.loads(sampling.json_schema)}}
        return body

    def _joined(self, events: Iterable[Any], ended: bool) -> dict[str, Any]:
        return join_events(events)

    def _read(self, reply: Any, max_tokens: int) -> Read:
        return read_message(reply)


def read_message(reply: Any) -> Read:
    """What a reply of the Messages API says. Raises `UnreadableReply` for JSON that holds no content.

    The API always gives a stop reason; where a server leaves it out, how the reply ended is unknown.
    """
    if not isinstance(reply, dict):
        raise UnreadableReply("it is not an object")
    content, reason, error = reply.get("content"), reply.get("stop_reason"), error_within(reply)
    blocks = content if isinstance(content, list) else [content]
    said, beside = text_parts(content)
    if said is None and not (reason and isinstance(content, list)):
        raise UnreadableReply("it has no content" if content is None else "its content holds no text")
    thoughts, text = split_thoughts(said or "")
    finish_reason = FinishReason.FAILED if error else ending(reason)
    calls_a_tool = any(isinstance(block, dict) and block.get("type") == "tool_use" for block in blocks)
    if calls_a_tool and not text and finish_reason is FinishReason.COMPLETE:
        finish_reason = FinishReason.PAUSED
    return Read(text, joined(beside, thoughts), finish_reason, usage_of(reply), error)


def join_events(events: Iterable[Any]) -> dict[str, Any]:
    """The message that a stream's events add up to. A stream without `message_delta` broke off: it has failed."""
    reply: dict[str, Any] = {"usage": {}}
    text: list[str] = []
    thoughts: list[str] = []
    for event in events:
        if not isinstance(event, dict):
            continue
        if event.get("error"):
            reply["error"] = event["error"]
        for part in (event.get("message"), event.get("delta"), event):
            if not isinstance(part, dict):
                continue
            if isinstance(part.get("usage"), dict):
                reply["usage"] |= {name: count for name, count in part["usage"].items() if count is not None}
            if part.get("stop_reason"):
                reply["stop_reason"] = part["stop_reason"]
        for block in (event.get("content_block"), event.get("delta"), _content(event)):
            said, beside = text_parts(_as_block(block))
            text.append(said or "")
            thoughts.append(beside)
            if isinstance(block, dict | list | str) and "content" not in reply:
                reply["content"] = []
    if "content" in reply:
        reply["content"] = [
            {"type": "thinking", "thinking": "".join(thoughts)},
            {"type": "text", "text": "".join(text)},
        ]
        reply.setdefault("stop_reason", "error")
    return reply


def _content(event: dict[str, Any]) -> Any:
    """The content of an event that holds a whole message."""
    message = event.get("message")
    return message.get("content") if isinstance(message, dict) else event.get("content")


def _as_block(piece: Any) -> Any:
    """A delta as the block that it is a part of: `thinking_delta` is a part of a thinking block."""
    if isinstance(piece, dict) and piece.get("type") in ("signature_delta", "input_json_delta"):
        return None
    return piece
