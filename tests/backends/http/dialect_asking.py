"""A backend of the registry before a scripted server, asked with a schema."""

from __future__ import annotations

import asyncio
from typing import Any

from meteor_agents.backends.options import Surroundings
from meteor_agents.backends.registry import open_model
from meteor_agents.method.replies import VERDICT_SCHEMA
from meteor_agents.models import ChatMessage, Completion, SamplingParams
from meteor_agents.settings.roles import ModelSettings
from tests.backends.conformance.fake_server import FakeServer

JUDGING = SamplingParams(temperature=0, top_p=1, max_tokens=40, json_schema=VERDICT_SCHEMA)


def settings_of(backend: str, server: FakeServer, **more: Any) -> ModelSettings:
    """The settings of a role at the server."""
    url = server.url + ("/v1" if backend == "openai" else "")
    return ModelSettings.model_validate(
        {"backend": backend, "model": "m", "base_url": url, "api_key_env": None, **more}
    )


def ask(
    settings: ModelSettings, *prompts: str, sampling: SamplingParams = JUDGING, notes: list[str] | None = None
) -> list[Completion]:
    async def run() -> list[Completion]:
        model = open_model("judge", settings, Surroundings(note=(notes if notes is not None else []).append))
        try:
            return [await model.complete([ChatMessage(role="user", content=prompt)], sampling) for prompt in prompts]
        finally:
            await model.aclose()

    return asyncio.run(run())
