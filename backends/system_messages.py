"""System messages for models whose chat template has no place for them."""

from __future__ import annotations

from collections.abc import Sequence

from meteor_agents.models import ChatMessage


def system_before_first_user(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """The same messages without a system role: its text stands before the first user message, with a blank line between.

    Messages that do not begin with a system message come back as they are.
    """
    if not messages or messages[0].role != "system":
        return list(messages)
    system, *rest = messages
    if rest and rest[0].role == "user":
        return [ChatMessage(role="user", content=f"{system.content}\n\n{rest[0].content}"), *rest[1:]]
    return [ChatMessage(role="user", content=system.content), *rest]
