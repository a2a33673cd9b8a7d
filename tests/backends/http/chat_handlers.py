"""A chat-completions server that is a function, and a way to ask it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx

from meteor_agents.backends.http.openai_compatible import OpenAICompatibleModel
from meteor_agents.backends.http.transport import Access, Network
from meteor_agents.models import ChatMessage, Completion, SamplingParams

KEY = "sk-very-secret-0123456789"
URL = "https://api.example.com/v1"
MESSAGES = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Hello?")]
Handler = Callable[[httpx.Request], httpx.Response]


def model_of(handler: Handler) -> OpenAICompatibleModel:
    """A model before the handler, with the key of the environment variable TEST_KEY."""
    network = Network(transport=httpx.MockTransport(handler))
    return OpenAICompatibleModel("gpt-test", URL, access=Access("TEST_KEY"), network=network)


def ask(handler: Handler, sampling: SamplingParams | None = None) -> Completion:
    """One reply to `MESSAGES`; raises what the call raises."""
    async def run() -> Completion:
        model = model_of(handler)
        try:
            return await model.complete(MESSAGES, sampling or SamplingParams())
        finally:
            await model.aclose()

    return asyncio.run(run())


def reply(**changes: Any) -> dict[str, Any]:
    """The body of a whole reply, with `changes` at its top."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 2}, **changes}


def answering(status: int = 200, **response: Any) -> Handler:
    """A handler that always answers the same."""
    return lambda request: httpx.Response(status, **response)
