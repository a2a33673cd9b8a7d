"""Chat-completions replies: where servers put the text, the thoughts, the ending and the usage.

Only the text is needed. Whatever else is absent or of an unexpected type counts as not said, so that a reply that was paid
for is not lost. A reply without any text to find is unreadable, and is not asked for again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from meteor_agents.backends.http.endings import ending, is_said, stricter
from meteor_agents.backends.http.failures import Reported, error_within
from meteor_agents.models import FinishReason, Usage
from meteor_agents.thoughts import split_thoughts

MOST_TOKENS = 10**9
"""The most tokens of one call. A server that reports more does not count tokens."""
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""What servers call the thoughts beside a reply."""


class UnreadableReply(ValueError):
    """The JSON of a reply holds no text where any server is known to put it. The message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Read:
    """What was read of a reply."""

    text: str
    thoughts: str
    finish_reason: FinishReason
    usage: Usage
    error: Reported | None = None
    """What the server reports to have gone wrong while it spoke; there may be text all the same."""
    weights: str | None = None
    """The weights version that the server names."""


def read_chat(reply: Any, max_tokens: int) -> Read:
    """The first choice of a reply to a call that asked for at most `max_tokens`. Raises `UnreadableReply`."""
    if not isinstance(reply, dict):
        raise UnreadableReply("it is not an object")
    choice = _first_choice(reply)
    message = choice.get("message") if isinstance(choice.get("message"), dict) else choice.get("delta")
    error = error_within(choice if choice.get("error") else reply if reply.get("error") else None)
    if not isinstance(message, dict):
        if not error and not isinstance(choice.get("text"), str):
            raise UnreadableReply("its choice has no message")
        message = {"content": choice.get("text")}
    said, beside = text_parts(message.get("content"))
    refusal = _text(message.get("refusal"))
    paused = bool(message.get("tool_calls") or message.get("function_call"))
    finish, native = choice.get("finish_reason") or choice.get("done_reason"), choice.get("native_finish_reason")
    given = next((found for name in _THOUGHTS if (found := _thoughts(message.get(name)))), "")
    if said is None and not (refusal or paused or error or given or is_said(finish) or "content" in message):
        raise UnreadableReply("its message has no content")
    if said is None and message.get("content") is not None:
        raise UnreadableReply("its content is no text")
    thoughts, text = split_thoughts(said or "")
    usage = usage_of(reply)
    reason = _reason(finish, native, usage, max_tokens)
    if error:
        reason = FinishReason.FAILED
    elif refusal:
        reason, text = FinishReason.REFUSED, text or refusal
    elif paused and not text and reason in (FinishReason.COMPLETE, FinishReason.UNKNOWN):
        reason = FinishReason.PAUSED
    return Read(text, joined(given, beside, thoughts), reason, usage, error, _weights(reply))


def _reason(finish: object, native: object, usage: Usage, max_tokens: int) -> FinishReason:
    """Why a reply ended. Some servers give no reason outside a stream: it is complete unless its tokens are used up."""
    if is_said(finish):
        return stricter(ending(finish), ending(native))
    if is_said(native):
        return ending(native)
    return FinishReason.CUT if (usage.output_tokens or 0) >= max_tokens else FinishReason.COMPLETE


def join_chunks(events: Iterable[Any], ended: bool) -> dict[str, Any]:
    """The reply that a stream's events add up to. A stream that broke off before its end has failed.

    `ended`: the stream came to its end. Also events that each hold a whole message are joined.
    """
    text: list[str] = []
    thoughts: list[str] = []
    refusal: list[str] = []
    message: dict[str, Any] = {}
    choice: dict[str, Any] = {}
    reply: dict[str, Any] = {}
    for event in events:
        if not isinstance(event, dict):
            continue
        reply |= {name: event[name] for name in ("usage", "error", "metadata", *_COUNTED) if event.get(name)}
        try:
            part = _first_choice(event)
        except UnreadableReply:
            continue
        choice |= {name: part[name] for name in _CHOICE_FIELDS if part.get(name)}
        piece = part.get("delta") if isinstance(part.get("delta"), dict) else part.get("message")
        piece = piece if isinstance(piece, dict) else {"content": part.get("text")}
        said, beside = text_parts(piece.get("content"))
        text.append(said or "")
        thoughts.append(beside + next((found for name in _THOUGHTS if (found := _thoughts(piece.get(name)))), ""))
        refusal.append(_text(piece.get("refusal")))
        message |= {name: piece[name] for name in ("tool_calls", "function_call") if piece.get(name)}
        message["content"] = None
    if message:
        whole = {"content": "".join(text), "reasoning": "".join(thoughts), "refusal": "".join(refusal)}
        finished = {} if ended or choice.get("finish_reason") or choice.get("done_reason") else {"finish_reason": "error"}
        reply["choices"] = [{**choice, **finished, "message": {**message, **whole}}]
    return reply


_CHOICE_FIELDS = ("finish_reason", "native_finish_reason", "done_reason", "error")
_COUNTED = ("prompt_eval_count", "eval_count")


def _first_choice(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    """The choice that was asked for. Ollama's own interface has one message, without choices."""
    choices = reply.get("choices")
    if isinstance(choices, list):
        found = next((c for c in choices if isinstance(c, dict) and c.get("index") in (0, None)), None)
        if found is not None:
            return found
        raise UnreadableReply("its choices are empty" if not choices else "its choice is not an object")
    if isinstance(choices, dict):
        return choices
    if isinstance(reply.get("message"), dict):
        return reply
    raise UnreadableReply("it has no choices")


def text_parts(content: Any) -> tuple[str | None, str]:
    """Text and thoughts in a message's content: a string, or parts of several types. The text is None if there is none."""
    if isinstance(content, str):
        return content, ""
    parts = [content] if isinstance(content, dict) else content if isinstance(content, list) else []
    text: list[str] = []
    thoughts: list[str] = []
    for part in parts:
        if isinstance(part, str):
            text.append(part)
        elif isinstance(part, dict):
            if _is_thought(part):
                thoughts.append(_thoughts(part))
            elif isinstance(found := part.get("text"), str):
                text.append(found)
            elif isinstance(found, dict) and isinstance(found.get("value"), str):
                text.append(found["value"])
            elif isinstance(part.get("refusal"), str):
                text.append(part["refusal"])
    return ("".join(text) if text or thoughts or content == [] else None), "".join(thoughts)


def _is_thought(part: Mapping[str, Any]) -> bool:
    kind = _text(part.get("type")).lower()
    return "think" in kind or "reason" in kind or part.get("thought") is True


def _thoughts(value: Any) -> str:
    """The thoughts in a field that holds them as text or as parts; empty for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(_thoughts(part) for part in value)
    if isinstance(value, dict):
        names = ("thinking", "reasoning", "text", "content", "summary")
        return next((found for name in names if (found := _thoughts(value.get(name)))), "")
    return ""


def joined(*thoughts: str) -> str:
    """Thoughts from several places, those that are the same once."""
    return "\n\n".join(dict.fromkeys(stripped for thought in thoughts if (stripped := thought.strip())))


def usage_of(reply: Any) -> Usage:
    """The usage in a reply, whatever else is wrong with it."""
    return read_usage(reply.get("usage") or reply) if isinstance(reply, dict) else Usage()


def read_usage(usage: Any) -> Usage:
    """Tokens as the server counted them; what is not a sensible number is unknown.

    The Messages API counts the input tokens of its cache apart; here they are part of the input.
    """
    if not isinstance(usage, dict):
        return Usage()
    read = first_count(usage, "prompt_tokens", "prompt_eval_count")
    if read is None and (read := first_count(usage, "input_tokens")) is not None:
        read += sum(first_count(usage, f"cache_{what}_input_tokens") or 0 for what in ("creation", "read"))
    return Usage(
        input_tokens=read, output_tokens=first_count(usage, "completion_tokens", "output_tokens", "eval_count")
    )


def first_count(usage: Mapping[str, Any], *names: str) -> int | None:
    """The first of these fields that holds a count of tokens: a whole number from 0 to `MOST_TOKENS`."""
    for name in names:
        value = usage.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_TOKENS:
            continue
        if value == int(value):
            return int(value)
    return None


def _weights(reply: Mapping[str, Any]) -> str | None:
    metadata = reply.get("metadata")
    return (_text(metadata.get("weight_version")) or None) if isinstance(metadata, dict) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
