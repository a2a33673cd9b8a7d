"""What comes from outside, made such that SQLite can hold it and UTF-8 can write it: once, where it enters the store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError, to_json

from meteor_agents.models import Completion, Usage
from meteor_agents.safe_text import clean

MOST_TOKENS = 1_000_000_000
"""More than any call can use: a server that reports more (or fewer than none) has reported nothing."""


def storable(reply: Completion) -> Completion:
    """The reply with `clean` texts and believable counts. Most replies are returned as they are."""
    usage = believable(reply.usage)
    texts = (reply.text, reply.reasoning, reply.model, reply.weights)
    if usage is reply.usage and all(map(is_clean, texts)):
        return reply
    text, reasoning, model, weights = map(clean, texts)
    return replace(reply, text=text, reasoning=reasoning, model=model, weights=weights, usage=usage)


def believable(usage: Usage) -> Usage:
    """The usage without counts that no call can have: they become None, which means unknown."""
    counts = (_count(usage.input_tokens), _count(usage.output_tokens))
    if counts == (usage.input_tokens, usage.output_tokens):
        return usage
    return Usage(input_tokens=counts[0], output_tokens=counts[1])


def is_clean(text: str) -> bool:
    """Whether `clean` would leave the text as it is; eight times as fast as `clean` itself."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def as_json(adapter: TypeAdapter[Any], value: Any) -> str:
    """The value as JSON. Text in it that UTF-8 cannot write is made `clean`."""
    try:
        return adapter.dump_json(value).decode()
    except PydanticSerializationError:
        return to_json(_cleaned(adapter.dump_python(value))).decode()


def _count(tokens: int | None) -> int | None:
    return tokens if tokens is not None and 0 <= tokens <= MOST_TOKENS else None


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {_cleaned(key): _cleaned(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(inner) for inner in value]
    return value
