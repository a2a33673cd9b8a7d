"""Any server that speaks the chat-completions interface: OpenAI's own, vLLM, SGLang, llama.cpp, gateways, Azure."""

from __future__ import annotations

import json
import os
import re
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeVar

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from meteor_agents.abilities import ModelFacts
from meteor_agents.backends.http.dialect import CHAT_FIELDS, Dialect, OptionalField
from meteor_agents.errors import (
    CredentialsError,
    RefusedCallError,
    SettingsError,
    TransientModelError,
    UnreachableError,
)
from meteor_agents.models import ChatMessage, Completion, FinishReason, SamplingParams, Usage
from meteor_agents.version import VERSION

OVERLOADED = {429, 503, 529}
"""What a server says that is asked too much."""
QUOTED = 300
"""Characters of a server's own words that an error repeats."""
RETRIED = {408, 409, 425, 429}
"""Besides 5xx: what the same request may not meet again."""
KEEP_ALIVE_S = 15
"""How long an idle connection is kept: shorter than servers do, so that few are closed in our face."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
TokenLimit = Literal["max_tokens", "max_completion_tokens"]
FINISH_REASONS = {"stop": FinishReason.COMPLETE, "length": FinishReason.CUT}


class OpenAICompatibleModel:
    """POSTs to `{base_url}/chat/completions`.

    The key is read from the environment variable `api_key_env` once, here, and is in no error and no repr. `headers`
    are sent along (their values are treated as secrets too), and `query` is added to the URL. `timeout_s` bounds each wait
    for data, `connect_timeout_s` connecting. `connections` bounds the sockets; None: as many as there are calls. Proxies
    and certificates are taken from the environment as everywhere (HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE, …); this machine
    is asked without a proxy. `transport` replaces the network (`httpx.MockTransport` in tests).

    `token_limit` is the field that carries `max_tokens`. With `json_schema` off, schemas are not sent. What a server refuses
    by name is put as it wants it, from then on; `note` hears of it.

    Raises `SettingsError` when the variable is not set or `base_url` is no http(s) URL.
    """

    path = "/chat/completions"
    models_path = "/models"
    fields: tuple[OptionalField, ...] = CHAT_FIELDS

    def __init__(
        self,
        model: str,
        base_url: str = "https://api.openai.com/v1",
        *,
        api_key_env: str | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        token_limit: TokenLimit = "max_tokens",
        json_schema: bool = True,
        note: Callable[[str], None] = lambda sentence: None,
        timeout_s: float | None = 120,
        connect_timeout_s: float | None = 20,
        connections: int | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._name = model
        key = _key(api_key_env, model)
        self._secrets = Secrets([key, *(headers or {}).values()])
        self._url = _endpoint(base_url, self.path, query or {})
        self._headers = httpx.Headers(
            {
                "Accept": "application/json",
                "Content-Type": "application/json",
                "User-Agent": f"meteor-agents/{VERSION}",
                **self._own_headers(key),
                **(headers or {}),
            }
        )
        self._timeout = httpx.Timeout(timeout_s, connect=connect_timeout_s, pool=None).as_dict()
        self._transport = transport or open_transport(self._url, connections)
        self._token_limit = token_limit
        self._dialect = Dialect(self.fields, lambda sentence: note(f"{model}: {sentence}"), schemas=json_schema)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r}, {self._secrets.hidden_in(str(self._url))!r})"

    @property
    def name(self) -> str:
        return self._name

    async def complete(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion:
        if sampling.beams > 1:
            raise RefusedCallError(f"{self._name}: {self._url.host} has no beam search; use `beams: 1`")
        while True:
            body = self._dialect.applied(self._body(messages, sampling))
            response = await self._post(body)
            if _is_about_the_request(response) and self._dialect.learns(_server_words(response), body):
                continue
            self._raise_for_status(response)
            completion = self._completion(response)
            if self._dialect.forgets_schema(completion.text, body):
                continue
            return completion

    def _own_headers(self, key: str | None) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _body(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._name,
            "messages": [message.model_dump() for message in messages],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            self._token_limit: sampling.max_tokens,
        }
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.json_schema is not None:
            schema = {"name": "reply", "strict": True, "schema": json.loads(sampling.json_schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    async def facts(self) -> ModelFacts:
        """What the server's list of models says; servers differ in what they call the context."""
        url = self._url.copy_with(path=self._url.path.removesuffix(self.path) + self.models_path)
        request = httpx.Request("GET", url, headers=self._headers, extensions={"timeout": self._timeout})
        try:
            listed = _Models.model_validate_json((await self._sent(request)).content)
        except (TransientModelError, ValidationError):
            return ModelFacts()
        own = next((model for model in listed.data if model.id == self._name), None)
        if own is None and len(listed.data) == 1:
            own = listed.data[0]
        return ModelFacts(tuple(model.id for model in listed.data), own.context if own else None)

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def _post(self, body: dict[str, Any]) -> httpx.Response:
        content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        return await self._sent(
            httpx.Request(
                "POST", self._url, headers=self._headers, content=content, extensions={"timeout": self._timeout}
            )
        )

    async def _sent(self, request: httpx.Request) -> httpx.Response:
        """The request goes straight to the transport: redirects, cookies and mounts of a client are not needed here."""
        try:
            response = await self._transport.handle_async_request(request)
            response.request = request
            try:
                await response.aread()
            finally:
                await response.aclose()
            return response
        except (httpx.RequestError, aiohttp.ClientError, OSError) as error:
            failure = self._network_failure(error)
        raise failure from None  # the library's error holds the request, and with it the key

    def _network_failure(self, error: Exception) -> TransientModelError:
        # The transport turns a refused connection into httpx's time-out too; what it came from tells them apart.
        late = isinstance(error.__cause__ or error, (TimeoutError, httpx.TimeoutException))
        what = f"no reply in time from {self._url.host}" if late else f"no connection to {self._url.host}"
        words = self._secrets.hidden_in(str(error) or type(error).__name__)
        kind = TransientModelError if late else UnreachableError
        return kind(f"{self._name}: {what}: {words[:QUOTED]}", late=late)

    def _raise_for_status(self, response: httpx.Response) -> None:
        status = response.status_code
        if response.is_success:
            return
        words = self._secrets.hidden_in(_server_words(response))[:QUOTED]
        message = f"{self._name}: {self._url.host} answered {status} {response.reason_phrase}: {words}"
        if status in (401, 403):
            raise CredentialsError(f"{message}. Check the key and what it is allowed to use")
        if status >= 500 or status in RETRIED:
            asked_s = _retry_after_s(response.headers.get("Retry-After"), response.headers.get("Date"))
            if asked_s is None and status == 429:
                asked_s = exhausted_s(response.headers) or None
            raise TransientModelError(message, retry_after_s=asked_s, overload=status in OVERLOADED, late=status == 408)
        raise RefusedCallError(message)

    def _completion(self, response: httpx.Response) -> Completion:
        reply = self._parsed(response, _Reply)
        choice, usage = reply.choices[0], reply.usage or _Usage()
        text, thought = apart(choice.message.content or "")
        return Completion(
            text=text,
            finish_reason=FINISH_REASONS.get(choice.finish_reason or "", FinishReason.UNKNOWN),
            usage=Usage(input_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens),
            model=self._name,
            weights=(reply.metadata and reply.metadata.weight_version) or self._name,
            reasoning=choice.message.reasoning_content or choice.message.reasoning or thought,
            pause_s=exhausted_s(response.headers),
        )

    def _parsed(self, response: httpx.Response, kind: type[AnyReply]) -> AnyReply:
        """Raises `TransientModelError` for a body that is something else, or was cut off."""
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as malformed:
            where = ".".join(str(step) for step in malformed.errors()[0]["loc"]) or "the body"
            words = self._secrets.hidden_in(response.text)[:QUOTED]
            failure = TransientModelError(
                f"{self._name}: {self._url.host} sent no chat completion ({where} is not as it should be): {words}"
            )
        raise failure from None  # the validation error quotes the body unredacted


def apart(content: str) -> tuple[str, str]:
    """Reply and thinking of a server that leaves `<think>…</think>` in front of the reply; it may be cut off."""
    opened = content.lstrip()
    if not opened.startswith("<think>"):
        return content, ""
    thought, _, reply = opened.removeprefix("<think>").partition("</think>")
    return reply.lstrip(), thought.strip()


class Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


AnyReply = TypeVar("AnyReply", bound=Wire)


class _ReplyMessage(Wire):
    """What a reasoning model thinks first is no part of its reply; servers disagree about the name."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(Wire):
    message: _ReplyMessage
    finish_reason: str | None = None


class _Usage(Wire):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Metadata(Wire):
    weight_version: str | None = None


class _Reply(Wire):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None
    metadata: _Metadata | None = None


class _Meta(Wire):
    n_ctx: int | None = None
    n_ctx_train: int | None = None


class _Model(Wire):
    """One line of a server's list; vLLM and SGLang, gateways, llama.cpp's own server."""

    id: str
    max_model_len: int | None = None
    context_length: int | None = None
    meta: _Meta | None = None

    @property
    def context(self) -> int | None:
        meta = self.meta or _Meta()
        return self.max_model_len or self.context_length or meta.n_ctx or meta.n_ctx_train


class _Models(Wire):
    data: list[_Model]


class Secrets:
    """What must never be shown. `hidden_in` blanks it, also where a server repeats it."""

    def __init__(self, values: Sequence[str | None]) -> None:
        words = {word for value in values if value for word in (value, *value.split()) if len(word) >= 6}
        longest_first = sorted(words, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if words else None

    def __repr__(self) -> str:
        return "Secrets(…)"

    def hidden_in(self, text: str) -> str:
        return self._pattern.sub("***", text) if self._pattern else text


def _key(variable: str | None, model: str) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise SettingsError(f"the environment variable {variable} is not set; it holds the key for {model}")
    return key


def open_transport(url: httpx.URL, connections: int | None = None) -> httpx.AsyncBaseTransport:
    """aiohttp's connections behind httpx's interface: httpx's own pool collapses above some 32 connections."""
    proxies = urllib.request.getproxies()
    direct = url.host in LOOPBACK or urllib.request.proxy_bypass(url.host)
    proxy = None if direct else proxies.get(url.scheme) or proxies.get("all")
    if proxy and not proxy.startswith(("http://", "https://")):
        raise SettingsError(
            f"the environment names a proxy for {url.host} that is no http proxy; set {url.scheme.upper()}_PROXY to one, "
            f"or name {url.host} in NO_PROXY"
        )
    most = connections or 0  # aiohttp's word for any number
    transport: httpx.AsyncBaseTransport = AiohttpTransport(
        limits=httpx.Limits(max_connections=most, max_keepalive_connections=most, keepalive_expiry=KEEP_ALIVE_S),
        proxy=httpx.Proxy(proxy) if proxy else None,
    )
    return transport


def _endpoint(base_url: str, path: str, query: Mapping[str, str]) -> httpx.URL:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as invalid:
        raise SettingsError(f"base_url {base_url!r} is not a URL: {invalid}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise SettingsError(f"base_url {base_url!r} is not a URL like https://api.example.com/v1")
    return url.copy_with(path=url.path.rstrip("/") + path).copy_merge_params(dict(query))


def _is_about_the_request(response: httpx.Response) -> bool:
    """llama.cpp's Python server answers 500 to a request that it finds malformed."""
    status = response.status_code
    return status in (400, 422) or (status == 500 and "validation error" in response.text)


def _server_words(response: httpx.Response) -> str:
    """The message inside a JSON error, else the body."""
    try:
        body = response.json()
    except ValueError:
        return response.text
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        error = error.get("message", error)
    return str(error)


def _retry_after_s(header: str | None, date: str | None = None) -> float | None:
    """Seconds, from a number or from an HTTP date; None if there is neither.

    A date counts from the reply's own `Date`: the server's clock and ours may differ, or jump.
    """
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    moment = _moment(header)
    if moment is None:
        return None
    return max(0.0, (moment - (_moment(date or "") or datetime.now(UTC))).total_seconds())


def _moment(http_date: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(http_date)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


_ALLOWANCES = (
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ("x-ratelimit-remaining", "x-ratelimit-reset"),
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
    ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
    ("anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"),
    ("anthropic-ratelimit-output-tokens-remaining", "anthropic-ratelimit-output-tokens-reset"),
)
_DURATION = re.compile(
    r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?", re.IGNORECASE
)
_UNITS_S = (86_400, 3600, 60, 1, 0.001)
_EPOCH_S = 1_000_000_000
"""A reset that is a number larger than this is a moment, not a number of seconds."""


def exhausted_s(headers: httpx.Headers) -> float:
    """Seconds until an allowance that is used up is renewed, by the rate-limit headers of a reply; 0 if none is."""
    if not any(b"ratelimit" in name.lower() for name, _ in headers.raw):
        return 0.0
    waits = [
        _reset_s(headers.get(reset)) for left, reset in _ALLOWANCES if headers.get(left, "").strip() in ("0", "0.0")
    ]
    return max(waits, default=0.0)


def _reset_s(value: str | None) -> float:
    """Seconds, from `1.5`, `6m0s`, `120ms`, a Unix time or an RFC 3339 moment; 0 if it is none of them."""
    if not value:
        return 0.0
    value = value.strip()
    try:
        number = float(value)
    except ValueError:
        pass
    else:
        return max(0.0, number - time.time() if number > _EPOCH_S else number)
    if matched := _DURATION.fullmatch(value):
        return sum(float(part) * unit for part, unit in zip(matched.groups(), _UNITS_S, strict=True) if part)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
