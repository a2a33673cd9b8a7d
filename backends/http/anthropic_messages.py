"""Anthropic's Messages API, and servers that speak it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx

from meteor_agents.backends.http.dialect import OptionalField
from meteor_agents.backends.http.openai_compatible import OpenAICompatibleModel, Wire, exhausted_s
from meteor_agents.models import ChatMessage, Completion, FinishReason, SamplingParams, Usage

VERSION = "2023-06-01"
"""Of the API, as the header `anthropic-version` names it."""
FINISH_REASONS = {
    "end_turn": FinishReason.COMPLETE,
    "stop_sequence": FinishReason.COMPLETE,
    "max_tokens": FinishReason.CUT,
    "model_context_window_exceeded": FinishReason.CUT,
}
FIELDS = (
    OptionalField("output_config", ("output_config", "json_schema", "structured output"), schema=True),
    OptionalField("top_p", ("top_p",)),
    OptionalField("temperature", ("temperature",)),
)


class AnthropicModel(OpenAICompatibleModel):
    """POSTs to `{base_url}/v1/messages`; otherwise as `OpenAICompatibleModel`: key, headers, errors, transport.

    The system messages go into a field of their own. There are no seeds: `seed` is not sent.
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

    def _completion(self, response: httpx.Response) -> Completion:
        reply = self._parsed(response, _Reply)
        return Completion(
            text="".join(block.text for block in reply.content if block.type == "text"),
            finish_reason=FINISH_REASONS.get(reply.stop_reason or "", FinishReason.UNKNOWN),
            usage=Usage(input_tokens=reply.usage.read, output_tokens=reply.usage.output_tokens),
            model=self._name,
            weights=self._name,
            reasoning="".join(block.thinking for block in reply.content if block.type == "thinking"),
            pause_s=exhausted_s(response.headers),
        )


class _Block(Wire):
    type: str
    text: str = ""
    thinking: str = ""


class _Usage(Wire):
    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int | None = None

    @property
    def read(self) -> int | None:
        """All input tokens; those of the cache are counted apart."""
        if self.input_tokens is None:
            return None
        return self.input_tokens + (self.cache_creation_input_tokens or 0) + (self.cache_read_input_tokens or 0)


class _Reply(Wire):
    content: list[_Block]
    stop_reason: str | None = None
    usage: _Usage = _Usage()
