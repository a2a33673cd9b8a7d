"""The body of a reply: read with a bound, unpacked, and parsed, whatever form a server gave it."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

import httpx

from meteor_agents.safe_text import MAX_DIGITS, parse_json

MOST_BYTES = 32 * 2**20
"""The largest reply, unpacked. Today's longest take a few megabytes, tens of megabytes as a stream."""
MOST_ERROR_BYTES = 2**20
"""The most that is read of an error; only its beginning is needed."""
ENCODINGS = "gzip, deflate"
"""What the request allows a server to pack its reply with."""
MOST_EVENTS = 500_000
"""The most events that are read of a stream. An event is about a token, so no model's longest reply reaches it."""
MOST_PARTS = 1_000_000
"""Lists and objects in one JSON value: each takes far more memory than its two characters."""
_DONE = "[DONE]"


class Body(NamedTuple):
    """What was read of a body."""

    content: bytes
    whole: bool
    """False: it was longer than the bound, and the rest was not read."""


class Parsed(NamedTuple):
    """The JSON values of a body."""

    values: list[Any]
    streamed: bool
    """They are the events of a stream, in order; otherwise there is one value."""
    ended: bool
    """Whether the body looks whole: one JSON value, or a stream that ended with `[DONE]`."""


async def read_body(response: httpx.Response, encoding: str, most: int) -> Body:
    """The body, unpacked from `encoding` (the header's value), up to `most` bytes; memory stays within that bound
    whatever the server sends.

    Raises `httpx.DecodingError` for a body that cannot be unpacked, and what the transport raises.
    """
    stream = response.stream
    assert isinstance(stream, httpx.AsyncByteStream)
    unpacker = _Unpacker(encoding)
    parts: list[bytes] = []
    received = unpacked = 0
    async for chunk in stream:
        part = unpacker.unpack(chunk, most - unpacked + 1)
        received, unpacked = received + len(chunk), unpacked + len(part)
        parts.append(part)
        if max(received, unpacked) > most:
            return Body(b"".join(parts)[:most], whole=False)
    return Body(b"".join(parts), whole=True)


class _Unpacker:
    """Undoes one content encoding, never producing more than it is allowed to."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding.strip().lower()
        if self._encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise httpx.DecodingError(f"it is packed as {self._encoding[:40]!r}, which was not asked for")
        self._inflating = zlib.decompressobj(32 + zlib.MAX_WBITS) if self._encoding not in ("", "identity") else None
        self._began = False

    def unpack(self, chunk: bytes, most: int) -> bytes:
        """Up to `most` bytes (at least 1) out of the next chunk; what is behind the packed content is dropped."""
        if self._inflating is None or not chunk:
            return chunk[:most]
        if self._inflating.eof:
            return b""
        try:
            unpacked = self._inflating.decompress(chunk, most)
        except zlib.error as error:
            if self._began:
                raise httpx.DecodingError(f"it cannot be unpacked: {error}") from error
            return self._plain_or_raw(chunk, most)
        self._began = True
        return unpacked

    def _plain_or_raw(self, chunk: bytes, most: int) -> bytes:
        """Servers say deflate for zlib and for the raw form, and gzip for what a proxy has unpacked already."""
        self._began = True
        self._inflating = None
        if self._encoding == "deflate" and chunk.lstrip()[:1] not in (b"{", b"[", b"d"):
            self._inflating = zlib.decompressobj(-zlib.MAX_WBITS)
            return self.unpack(chunk, most)
        return chunk[:most]


def parsed(content: bytes) -> Parsed:
    """The JSON in a body: one value, or a stream of them (server-sent events, JSON lines, an array of events).

    A byte order mark is skipped, and bytes that are not UTF-8 become U+FFFD. An event that cannot be read, for example one
    that was cut off, is left out. Raises `json.JSONDecodeError` when nothing can be read, which another try may heal, and a
    plain `ValueError` for JSON that is nested too deep or has too many parts.
    """
    text = content.decode(json.detect_encoding(content), "replace").strip("\ufeff \t\r\n")
    try:
        value = _value(text)
    except ValueError as error:
        values, ended = _events(text)
        if any(isinstance(value, dict) for value in values):
            return Parsed(values, streamed=True, ended=ended)
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            return Parsed([parse_json(text[: error.pos])], streamed=False, ended=True)
        raise
    if isinstance(value, list) and value and all(isinstance(event, dict) for event in value):
        return Parsed(value, streamed=True, ended=True)
    return Parsed([value], streamed=False, ended=True)


def _value(text: str) -> Any:
    """One JSON value, also from a server that leaves line breaks within strings as they are.

    An integer of more digits than can be kept is read as null. Raises `json.JSONDecodeError` for what is not JSON, and a
    plain `ValueError` for JSON that is nested too deep or has too many parts.
    """
    if text.count("[") + text.count("{") > MOST_PARTS:
        raise ValueError(f"it has more than {MOST_PARTS:,} lists and objects")
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        if not error.msg.startswith("Invalid control character"):
            raise
    except ValueError:
        if not re.search(rf"\d{{{MAX_DIGITS + 1}}}", text):
            raise
    try:
        return parse_json(json.dumps(json.loads(text, strict=False, parse_int=_integer)))
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= MAX_DIGITS else None


def _events(text: str) -> tuple[list[Any], bool]:
    """The events of a stream that can be read, and whether `[DONE]` ended it."""
    values: list[Any] = []
    for data in islice(_data(text), MOST_EVENTS):
        if data == _DONE:
            return values, True
        with suppress(ValueError):
            values.append(parse_json(data))
    return values, False


def _data(text: str) -> Iterator[str]:
    """What each event of a stream says, a line at a time: servers put an event's JSON into one. Other lines are skipped."""
    for line in text.replace("\r\n", "\n").split("\n"):
        said = line.removeprefix("data:").strip()
        if said == _DONE or (line.startswith(("data:", "{")) and said.startswith("{") and said.endswith("}")):
            yield said
