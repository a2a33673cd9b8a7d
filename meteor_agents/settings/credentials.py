"""Keeping secrets out of settings and of the files that are written from them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

HIDDEN = "***"
"""What a run directory's config.yaml holds instead of a value that may be a secret."""

_HOLD_SECRETS = frozenset({"headers", "environment", "env"})
"""Options whose every value is left out: their names tell little about what users put there."""
_SECRET_NAME = re.compile(
    r"api[-_]?key|secret|passw|credential|authoriz|private[-_]?key|(?:^|[-_])(?:token|auth)$", re.IGNORECASE
)
_SECRET_FLAG = re.compile(
    r"(--[\w-]*(?:api[-_]key|secret|password|passwd|credential|token)(?![\w-])(?:=|\s+))(\S+)", re.IGNORECASE
)
_SECRET_PARAMETER = re.compile(r"key|token|secret|passw|auth|sig", re.IGNORECASE)


def without_secrets(options: Mapping[str, Any]) -> dict[str, Any]:
    """A backend's or a verifier's options with `HIDDEN` instead of every value that may be a secret, at every depth.

    Hidden are all values of headers and environments, values whose name looks like a credential's, and what follows a flag
    such as `--api-key`. Names of environment variables (`api_key_env`, `headers_env`) stay: they are no secret.
    """
    return {name: _without(name, value) for name, value in options.items()}


def _without(name: str, value: Any) -> Any:
    if name.lower() in _HOLD_SECRETS or (_SECRET_NAME.search(name) and not name.lower().endswith("_env")):
        return _all_hidden(value)
    if name == "headers_env":
        return value
    if isinstance(value, Mapping):
        return without_secrets(value)
    if isinstance(value, list | tuple):
        hidden = [_without("", item) for item in value]
        for at in range(1, len(hidden)):
            if isinstance(hidden[at - 1], str) and _SECRET_FLAG.fullmatch(f"{hidden[at - 1]} x"):
                hidden[at] = HIDDEN
        return hidden
    return _SECRET_FLAG.sub(rf"\g<1>{HIDDEN}", value) if isinstance(value, str) else value


def _all_hidden(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _all_hidden(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_all_hidden(inner) for inner in value]
    return HIDDEN if isinstance(value, str | int | float) and not isinstance(value, bool) else value


def hidden_in(options: Mapping[str, Any]) -> str | None:
    """The name of an option whose value `without_secrets` left out, such as `headers.X-Team`; None if there is none."""
    for name, text in texts_in(options):
        if text == HIDDEN or any(found.group(2) == HIDDEN for found in _SECRET_FLAG.finditer(text)):
            return name
    return None


def texts_in(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text in nested options, with its dotted name."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from texts_in(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts_in(inner, name)


def secret_in_address(address: str) -> str | None:
    """What in this URL looks like a secret, in words that do not repeat it; None for every other text."""
    if "://" not in address:
        return None
    try:
        url = urlsplit(address)
        parameters = [name for name, _ in parse_qsl(url.query, keep_blank_values=True)]
    except ValueError:
        return None  # not a URL: the backend refuses it
    if "@" in url.netloc:
        return "a user name or a key"
    secret = next((name for name in parameters if _SECRET_PARAMETER.search(name)), None)
    return f"the parameter {secret!r}, which looks like a credential" if secret else None
