"""A model that says what it was told to say: for dry runs, demonstrations and tests."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from meteor_agents.errors import RefusedCallError, SettingsError
from meteor_agents.models import ChatMessage, Completion, FinishReason, SamplingParams, Usage

ReplyFunction = Callable[[Sequence[ChatMessage], SamplingParams], str]
"""A reply to a chat."""


class ScriptedModel:
    """Replies from a list, in order, or from a function of the messages.

    An exhausted list raises `RefusedCallError`, unless `cycle` starts it again. A function may raise any `ModelError`.
    Usage counts words.
    """

    def __init__(
        self,
        replies: Sequence[str] | ReplyFunction,
        name: str = "scripted",
        weights: str = "scripted",
        delay_s: float = 0,
        *,
        cycle: bool = False,
    ) -> None:
        self._name = name
        self._reply = replies if callable(replies) else _Script(replies, name, cycle)
        self._weights = weights
        self._delay_s = delay_s
        self.calls = 0
        """Calls so far, the refused ones included."""

    @property
    def name(self) -> str:
        """The name given to the constructor."""
        return self._name

    @property
    def weights(self) -> str:
        """The version that replies carry; `load_weights` changes it."""
        return self._weights

    @property
    def max_beams(self) -> int:
        """Any number: how a scripted reply is decoded makes no difference."""
        return 1_000_000

    async def complete(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion:
        """The next reply, always a whole one. Raises `RefusedCallError` when the list is used up."""
        self.calls += 1
        text = self._reply(messages, sampling)
        weights = self._weights
        await asyncio.sleep(self._delay_s)
        return Completion(
            text=text,
            finish_reason=FinishReason.COMPLETE,
            usage=Usage(
                input_tokens=sum(len(message.content.split()) for message in messages), output_tokens=len(text.split())
            ),
            model=self._name,
            weights=weights,
        )

    async def load_weights(self, folder: Path, version: str) -> None:
        """Replies carry `version` from now on. Nothing is read from `folder`."""
        self._weights = version

    async def aclose(self) -> None:
        """Does nothing: there is nothing to release."""


class _Script:
    """A list as a reply function."""

    def __init__(self, replies: Sequence[str], name: str, cycle: bool) -> None:
        if isinstance(replies, str) or not replies:
            raise SettingsError(f"the scripted model {name!r} needs a list of at least one reply")
        self._replies = tuple(replies)
        self._name = name
        self._cycle = cycle
        self._next = 0

    def __call__(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> str:
        if self._next == len(self._replies) and not self._cycle:
            raise RefusedCallError(f"the scripted model {self._name!r} has said all of its {self._next} replies")
        reply = self._replies[self._next % len(self._replies)]
        self._next = self._next + 1
        return reply


def reply_function(reference: str) -> ReplyFunction:
    """The function that `module:function` names. Raises `SettingsError` if it cannot be imported or is not a function."""
    module_name, colon, function_name = reference.partition(":")
    if not (module_name and colon and function_name):
        raise SettingsError(f"function {reference!r} is not of the form module:function")
    try:
        found: Any = importlib.import_module(module_name)
        for part in function_name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as absent:
        raise SettingsError(f"function {reference!r} cannot be imported: {absent}") from absent
    function: ReplyFunction = found
    if not callable(function):
        raise SettingsError(f"function {reference!r} is not a function")
    return function
