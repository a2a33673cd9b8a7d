"""The endpoints that SGLang has beside the chat interface: weights, memory, the queue, and native generation."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx

from meteor_agents.backends.http.body import ENCODINGS, read_body
from meteor_agents.backends.http.transport import QUOTED, Secrets, open_transport
from meteor_agents.errors import ModelError, RefusedCallError, SettingsError, TransientModelError, UnreachableError
from meteor_agents.safe_text import parse_json

MOST_BYTES = 4 * 2**20
"""The most bytes of an answer. The longest, `/server_info`, takes some kilobytes."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long servers are waited for, in seconds."""

    short_s: float = 5.0
    """Time limit of an answer that needs no computing."""
    token_s: float = 60.0
    """Time limit of one token, including whatever the server has to do before it."""
    weights_s: float = 1800.0
    """Time limit of loading weights: enough for a large model on a slow disk."""
    first_pause_s: float = 1.0
    """The pause before a crashed server is started again, or one left out is tried again. It doubles each time."""
    longest_pause_s: float = 60.0
    """The longest of those pauses."""
    grace_s: float = 10.0
    """How long a process has to end after SIGTERM before it is killed."""
    steady_s: float = 600.0
    """A server that has run for this long is not in a crash loop."""


class SGLangServer:
    """The server at `url` (its root, without /v1). `headers` are sent along and never shown.

    Its methods raise `UnreachableError`, `TransientModelError` or `RefusedCallError`, which name the server. The
    constructor raises `SettingsError` for something that is not a URL.
    """

    def __init__(self, url: str, headers: Mapping[str, str] | None = None, patience: Patience | None = None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._patience = patience or Patience()
        self._secrets = Secrets(list((headers or {}).values()))
        try:
            self.host = httpx.URL(self.url).netloc.decode()
        except httpx.InvalidURL as invalid:
            raise SettingsError(f"base_url {url!r} is not a URL: {invalid}") from None
        own = {"Accept-Encoding": ENCODINGS, **(headers or {})}
        self._client = httpx.AsyncClient(headers=own, transport=open_transport(httpx.URL(self.url)))

    def __repr__(self) -> str:
        return f"SGLangServer({self.host!r})"

    async def generate_token(self) -> None:
        """Have the server generate one token. Returns when it has, and raises `TransientModelError` when it gave up."""
        body = {"text": "Hello", "sampling_params": {"max_new_tokens": 1, "temperature": 0}}
        reply = await self._ask("POST", "/generate", body, within_s=self._patience.token_s)
        if not isinstance(reply, dict) or "text" not in reply:
            raise TransientModelError(f"{self.host}: its answer to /generate holds no text; is it an SGLang server?")
        if (why := _aborted(reply)) is not None:
            raise TransientModelError(f"{self.host} aborted a generation: {self._shown(why)}")

    async def is_healthy(self) -> bool:
        """Whether generations make progress. A server with a long queue says yes, too."""
        try:
            await self._ask("GET", "/health_generate", within_s=self._patience.token_s)
        except ModelError:
            return False
        return True

    async def weights(self) -> str:
        """The version of the weights that the server has loaded."""
        for path in ("/model_info", "/get_model_info"):  # its newer and its older name
            try:
                info = await self._ask("GET", path, within_s=self._patience.short_s)
            except RefusedCallError:
                continue
            if isinstance(info, dict) and isinstance(version := info.get("weight_version"), str):
                return version
        raise RefusedCallError(
            f"{self.host} does not say which weights it serves (no weight_version in /model_info): it is too old, "
            "or a router, which cannot be given new weights; name the servers behind it in base_url"
        )

    async def load_weights(self, folder: Path, version: str) -> None:
        """Replace the weights by those of `folder` (absolute, as the server sees it) and read the version back.

        The server first finishes the requests that it is computing.
        """
        body = {"model_path": str(folder), "weight_version": version}
        reply = await self._ask("POST", "/update_weights_from_disk", body, within_s=self._patience.weights_s)
        if not isinstance(reply, dict) or reply.get("success") is not True:
            raise RefusedCallError(f"{self.host} did not load {folder}: {self._shown(reply)}")
        served = await self.weights()
        if served != version:
            raise TransientModelError(f"{self.host} was given the weights {version}, but serves {served}")

    async def waiting(self) -> int | None:
        """The number of requests in its queue; None where the server has no /v1/loads."""
        try:
            reply = await self._ask("GET", "/v1/loads", within_s=self._patience.short_s)
            return sum(int(rank["num_waiting_reqs"]) for rank in reply["loads"])
        except (RefusedCallError, KeyError, TypeError, ValueError):
            return None

    async def has(self, option: str) -> bool:
        """Whether the server was started with this option, for example `enable_memory_saver`."""
        for path in ("/server_info", "/get_server_info"):
            try:
                info = await self._ask("GET", path, within_s=self._patience.short_s)
            except RefusedCallError:
                continue
            return isinstance(info, dict) and info.get(option) is True
        return False

    async def release_memory(self) -> None:
        """Free the device's memory. Without the option `enable_memory_saver` the server answers and does nothing."""
        await self._ask("POST", "/release_memory_occupation", {}, within_s=self._patience.token_s)

    async def resume_memory(self) -> None:
        """Take the memory back that `release_memory` freed."""
        await self._ask("POST", "/resume_memory_occupation", {}, within_s=self._patience.token_s)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def _ask(self, method: str, path: str, body: object = None, *, within_s: float) -> Any:
        timeout = httpx.Timeout(within_s, connect=self._patience.short_s)
        request = self._client.build_request(method, self.url + path, json=body, timeout=timeout)
        try:
            async with asyncio.timeout(within_s):  # the time-out of the client is that of a single read
                response = await self._client.send(request, stream=True)
                try:
                    answer = await read_body(response, response.headers.get("Content-Encoding", ""), MOST_BYTES)
                finally:
                    await response.aclose()
        except (httpx.RequestError, httpx.StreamError, aiohttp.ClientError, OSError) as error:
            # The transport turns a refused connection into httpx's time-out too; what it came from tells them apart.
            late = isinstance(error, TimeoutError) or isinstance(
                error.__cause__ or error, (TimeoutError, httpx.TimeoutException)
            )
            words = self._shown(str(error) or type(error).__name__)
            what = f"{self.host}: {'no answer in time' if late else 'no connection'} ({path}): {words}"
            failure: ModelError = TransientModelError(what) if late else UnreachableError(what)
        else:
            if response.is_success and answer.whole:
                return _content(answer.content)
            said = self._shown(answer.content[: 10 * QUOTED].decode("utf-8", "replace")) or "no words"
            what = f"{self.host} answered {response.status_code} to {path}: {said}"
            if response.is_success:
                what = f"{self.host}: its answer to {path} is longer than {MOST_BYTES // 2**20} MB. It is no SGLang server"
            elif response.status_code == 404:
                what += ". It is no SGLang server, or a router; name the servers behind it in base_url"
            failure = TransientModelError(what) if response.status_code >= 500 else RefusedCallError(what)
        raise failure from None  # the library's error holds the request, and with it the key

    def _shown(self, words: object) -> str:
        return self._secrets.quoted(str(words))


def _aborted(reply: dict[str, Any]) -> str | None:
    """What SGLang's native interface says of a generation that it gave up; None for one that ended otherwise."""
    about = reply.get("meta_info")
    ending = about.get("finish_reason") if isinstance(about, dict) else None
    if isinstance(ending, dict) and ending.get("type") == "abort":
        return str(ending.get("message") or "no reason given")
    return None


def _content(body: bytes) -> Any:
    """The JSON value of an answer; its text where it is none."""
    text = body.decode("utf-8", "replace")
    try:
        return parse_json(text)
    except ValueError:
        return text
