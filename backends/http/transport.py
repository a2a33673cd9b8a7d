"""Requests to one model's server: address, secrets, connections, and what the network can do wrong."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import aiohttp.http_exceptions
import httpx
from httpx_aiohttp import AiohttpTransport

from meteor_agents.backends.http.body import ENCODINGS, MOST_BYTES, MOST_ERROR_BYTES, read_body
from meteor_agents.errors import SettingsError, TransientModelError, UnreachableError
from meteor_agents.safe_text import clean, printable
from meteor_agents.settings.roles import Limits
from meteor_agents.version import VERSION

KEEP_ALIVE_S = 15
"""How long an idle connection is kept: shorter than servers do, so that few are closed in our face."""
QUOTED = 300
"""Characters of a server's own words that an error repeats."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_FAILURES = (
    httpx.RequestError,
    httpx.StreamError,
    aiohttp.ClientError,
    aiohttp.http_exceptions.HttpProcessingError,
    OSError,
)
"""What the network, the transport and unpacking a body raise."""
_NOT_HTTP = (aiohttp.ClientResponseError, aiohttp.http_exceptions.HttpProcessingError, httpx.RemoteProtocolError)
"""What is raised for an answer whose headers break the protocol, or for a connection that ends within an answer."""
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class Secrets:
    """Values that must never be shown, such as a key: `Secrets([key, *headers.values()])`.

    A value of several words, such as `Bearer KEY`, hides each of them too. Values of fewer than six characters are not
    hidden: they would blank ordinary text.
    """

    def __init__(self, values: Sequence[str | None]) -> None:
        words = {word for value in values if value for word in (value, *value.split()) if len(word) >= 6}
        longest_first = sorted(words, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if words else None

    def __repr__(self) -> str:
        return "Secrets(…)"

    def hidden_in(self, text: str) -> str:
        """`text` with `***` in place of each secret."""
        return self._pattern.sub("***", text) if self._pattern else text

    def quoted(self, text: str, limit: int = QUOTED) -> str:
        """At most `limit` characters of a server's words, for an error or a note.

        Secrets are hidden before anything is cut, and nothing is left that a terminal or the store could stumble over.
        """
        return printable(clean(self.hidden_in(text)).strip()[:limit])[: 2 * limit]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered, whatever the status."""

    status: int
    reason: str
    """The phrase beside the status, such as `Bad Request`; may be empty."""
    headers: Mapping[str, str]
    """The reply's headers, with names in lower case."""
    content: bytes
    whole: bool
    """False: the body was longer than the bound, and only its beginning was read."""

    @property
    def ok(self) -> bool:
        """Whether the status is one of success (2xx)."""
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        """The body as text; bytes that are not UTF-8 become U+FFFD."""
        return self.content.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Access:
    """What a server wants beside the address: a key, headers, and values in the URL."""

    api_key_env: str | None = None
    """The environment variable that holds the key; None: no key is sent."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with every request. Their values are treated as secrets too."""
    query: Mapping[str, str] = field(default_factory=dict)
    """Added to the URL."""


@dataclass(frozen=True, slots=True)
class Network:
    """How long to wait for a server, and over how many connections."""

    timeout_s: float | None = 120
    """The limit of each wait for data; None: no limit."""
    connect_timeout_s: float | None = 20
    connections: int | None = None
    """The most sockets; None: as many as there are calls."""
    transport: httpx.AsyncBaseTransport | None = None
    """Replaces the network: `httpx.MockTransport` in tests."""


def network_of(limits: Limits) -> Network:
    """The waits that a role's limits allow."""
    return Network(limits.read_timeout_s or limits.timeout_s, limits.connect_timeout_s)


class Endpoint:
    """Where the model `name` is asked: `url`, with `headers` in every request. Errors hide `secrets`.

    `timeout` bounds connecting and each wait for data. `transport` is the network, or what replaces it in a test. Raises
    `SettingsError` for a header that cannot be sent.
    """

    def __init__(
        self,
        name: str,
        url: httpx.URL,
        headers: Mapping[str, str],
        secrets: Secrets,
        timeout: httpx.Timeout,
        transport: httpx.AsyncBaseTransport,
    ) -> None:
        self.name = name
        self.url = url
        self.secrets = secrets
        own = {"Accept": "application/json", "Accept-Encoding": ENCODINGS, "Content-Type": "application/json"}
        self._headers = _checked({**own, "User-Agent": f"meteor-agents/{VERSION}", **headers}, name)
        self._timeout = timeout.as_dict()
        self._transport = transport

    @property
    def hint(self) -> str:
        """For an error about an answer that is not the interface's own: where most servers have it. May be empty."""
        base = self.url.path.removesuffix("/chat/completions")
        if base == self.url.path or re.search(r"/v\d", base):
            return ""
        elsewhere = self.secrets.hidden_in(str(self.url.copy_with(path=base.rstrip("/") + "/v1", query=None)))
        return f" (most servers have this interface under /v1: try base_url: {elsewhere})"

    def __repr__(self) -> str:
        return f"Endpoint({self.secrets.hidden_in(str(self.url))!r})"

    async def post(self, body: Mapping[str, Any]) -> Answer:
        """The answer to `body`, sent as JSON. Raises `TransientModelError` or `UnreachableError`."""
        content = _ENCODER.encode(body).encode("utf-8", "replace")
        return await self._sent("POST", self.url, content)

    async def get(self, url: httpx.URL) -> Answer:
        """The answer from another address of the same server; the same errors."""
        return await self._sent("GET", url, None)

    async def aclose(self) -> None:
        """Close the connections. Can be repeated."""
        await self._transport.aclose()

    async def _sent(self, method: str, url: httpx.URL, content: bytes | None) -> Answer:
        """The request goes straight to the transport: redirects, cookies and mounts of a client are not needed here."""
        request = httpx.Request(
            method, url, headers=self._headers, content=content, extensions={"timeout": self._timeout}
        )
        try:
            response = await self._transport.handle_async_request(request)
            headers = _plain(response.headers)
            try:
                most = MOST_BYTES if response.is_success else MOST_ERROR_BYTES
                body = await read_body(response, headers.get("content-encoding", ""), most)
            finally:
                await response.aclose()
        except _FAILURES as error:
            failure = self._network_failure(error)
        else:
            return Answer(response.status_code, response.reason_phrase, headers, *body)
        raise failure from None  # the library's error holds the request, and with it the key

    def _network_failure(self, error: Exception) -> TransientModelError:
        # The transport turns a refused connection into httpx's time-out too; what it came from tells them apart.
        source = error.__cause__ or error
        late = isinstance(source, (TimeoutError, httpx.TimeoutException))
        words = self.secrets.quoted(str(error) or type(error).__name__)
        host = self.url.host
        if isinstance(error, httpx.DecodingError):
            return TransientModelError(f"{self.name}: the reply of {host} cannot be read: {words}")
        if late:
            what = f"no reply in time from {host}"
        else:
            what = f"no answer in HTTP from {host}" if isinstance(source, _NOT_HTTP) else f"no connection to {host}"
        return (TransientModelError if late else UnreachableError)(f"{self.name}: {what}: {words}", late=late)


def _plain(headers: httpx.Headers) -> dict[str, str]:
    """A reply's headers with names in lower case; values of one name are joined by commas, as httpx does, but faster."""
    found: dict[str, str] = {}
    for raw_name, raw_value in headers.raw:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _checked(headers: Mapping[str, str], name: str) -> httpx.Headers:
    try:
        return httpx.Headers(dict(headers))
    except UnicodeEncodeError:
        failure = SettingsError(f"{name}: a header or the key has a character that is not ASCII, which no header may have")
    raise failure  # the other error holds the key


def endpoint_url(base_url: str, path: str, query: Mapping[str, str]) -> httpx.URL:
    """`base_url` with `path` behind its own, unless it ends so already, and `query` added.

    Raises `SettingsError` for anything but an http(s) URL.
    """
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as invalid:
        raise SettingsError(f"base_url {base_url!r} is not a URL: {invalid}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise SettingsError(f"base_url {base_url!r} is not a URL like https://api.example.com/v1")
    base = url.path.rstrip("/").removesuffix(path)
    return url.copy_with(path=base + path).copy_merge_params(dict(query))


def open_transport(url: httpx.URL, connections: int | None = None) -> httpx.AsyncBaseTransport:
    """The network for requests to `url`, over at most `connections` sockets (None: as many as there are calls).

    aiohttp's connections stand behind httpx's interface: httpx's own pool collapses above some 32 connections. Proxies and
    certificates come from the environment (HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE, ...); this machine is asked directly.
    Raises `SettingsError` for a proxy that is not an http proxy.
    """
    proxies = urllib.request.getproxies()
    direct = url.host in LOOPBACK or urllib.request.proxy_bypass(url.host)
    proxy = None if direct else proxies.get(url.scheme) or proxies.get("all")
    if proxy and not proxy.startswith(("http://", "https://")):
        raise SettingsError(
            f"the environment names a proxy for {url.host} that is not an http proxy; set {url.scheme.upper()}_PROXY to "
            f"one, or name {url.host} in NO_PROXY"
        )
    most = connections or 0  # aiohttp's word for any number
    transport: httpx.AsyncBaseTransport = AiohttpTransport(
        limits=httpx.Limits(max_connections=most, max_keepalive_connections=most, keepalive_expiry=KEEP_ALIVE_S),
        proxy=httpx.Proxy(proxy) if proxy else None,
    )
    return transport
