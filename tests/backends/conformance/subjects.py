"""Every backend as the conformance suite sees it: how to open it, and what it can do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meteor_agents.abilities import Opens
from meteor_agents.backends.options import Surroundings
from meteor_agents.backends.registry import open_model
from meteor_agents.models import ChatModel
from meteor_agents.settings.roles import ModelSettings
from tests.backends.conformance.fake_server import FakeServer

Opening = Callable[..., AbstractAsyncContextManager[ChatModel]]


@dataclass(frozen=True)
class Subject:
    """One backend, opened through the registry as a run opens it."""

    name: str
    settings: dict[str, Any]
    speaks: bool = True
    """It decodes: limits, stop strings and temperatures mean something. Else it says what it was told."""
    seeds: bool = True
    """It keeps to a seed."""
    steady: bool = True
    """What it says does not depend on what it was asked before."""
    follows: bool = False
    """It is the scripted server, which says what a prompt tells it to, and fails when told to."""

    @asynccontextmanager
    async def open(self, **changes: Any) -> AsyncIterator[ChatModel]:
        """`timeout_s` goes into the limits; everything else over the settings."""
        limits = {"timeout_s": changes.pop("timeout_s", 900)}
        settings = ModelSettings.model_validate({**self.settings, "limits": limits, **changes})
        model = open_model("judge", settings, Surroundings())
        try:
            if isinstance(model, Opens):
                await model.open()
            yield model
        finally:
            await model.aclose()


SERVED = ("openai", "anthropic", "sglang", "sglang-pool")
REAL = ("real-sglang", "real-sglang-as-openai", "real-sglang-as-anthropic")
LLAMA = "real-llama"
NAMES = (*SERVED, "transformers", "scripted", *REAL, LLAMA)


def served_subject(name: str, closing: ExitStack) -> Subject:
    """A backend for servers, before a scripted server of its own."""
    server = closing.enter_context(FakeServer().running())
    if name == "openai":
        return Subject(name, {"backend": "openai", "model": "m", "base_url": f"{server.url}/v1"}, follows=True)
    if name == "anthropic":
        settings = {"backend": "anthropic", "model": "m", "base_url": server.url, "api_key_env": None}
        return Subject(name, settings, seeds=False, follows=True)
    urls = [server.url]
    if name == "sglang-pool":
        urls.append(closing.enter_context(FakeServer().running()).url)
    return Subject(name, {"backend": "sglang", "model": "m", "base_url": urls}, follows=True)


def real_subject(name: str, url: str, model: str) -> Subject:
    """SGLang keeps to a seed only with --enable-deterministic-inference, which needs a GPU."""
    ways: dict[str, dict[str, Any]] = {
        "real-sglang": {"backend": "sglang", "base_url": url},
        "real-sglang-as-openai": {"backend": "openai", "base_url": f"{url}/v1"},
        "real-sglang-as-anthropic": {"backend": "anthropic", "base_url": url, "api_key_env": None},
    }
    return Subject(name, {**ways[name], "model": model}, seeds=False)


def llama_subject(url: str, model: str) -> Subject:
    """It reads again only what is new in a prompt, and four-bit weights then round otherwise."""
    return Subject(LLAMA, {"backend": "openai", "base_url": f"{url}/v1", "model": model}, steady=False)


def local_subject(folder: Path) -> Subject:
    return Subject(
        "transformers", {"backend": "transformers", "model": str(folder), "device": "cpu", "dtype": "float32"}
    )


def scripted_subject() -> Subject:
    function = "tests.backends.conformance.subjects:echo"
    return Subject("scripted", {"backend": "scripted", "function": function}, speaks=False, seeds=False)


def echo(messages: Any, sampling: Any) -> str:
    return str(messages[-1].content.removeprefix("SAY:"))
