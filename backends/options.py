"""The settings of each built-in backend beyond those that every model has."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from meteor_agents.errors import SettingsError
from meteor_agents.nearest import did_you_mean
from meteor_agents.settings.credentials import HIDDEN
from meteor_agents.settings.roles import ModelSettings


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a backend may use of the run that it is opened for."""

    logs: Path | None = None
    """The folder for what a launched server writes; None: one for temporary files."""
    note: Callable[[str], None] = lambda sentence: None
    """Called with each sentence that the people who watch the run should read."""


class Options(BaseModel):
    """The settings of one backend beyond those that every model has."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TransformersOptions(Options):
    """Settings of `transformers`, a model in this process."""

    device: str = "auto"
    """A torch device; `auto`: a GPU if there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """The weights' number format; `auto`: bfloat16 where the hardware multiplies it, else float32."""
    max_batch: int = 64
    """Sequences decoded together; each beam is one."""
    quantization: dict[str, Any] | None = None
    """transformers' `quantization_config`, for example {quant_method: bitsandbytes, load_in_8bit: true}."""


class EndpointOptions(Options):
    """Settings of every server that is asked over HTTP."""

    api_key_env: str | None = None
    """The environment variable that holds the key."""
    headers: dict[str, str] = {}
    """Sent with every request as they are; none may be a credential."""
    headers_env: dict[str, str] = {}
    """Header -> the environment variable that holds its value."""
    json_schema: bool = True
    """Whether the server is asked to hold verdicts and scores, which a program reads, to a JSON schema."""

    @field_validator("headers")
    @classmethod
    def _no_credentials(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if _CREDENTIAL.search(name):
                raise ValueError(
                    f"{name} looks like a credential, and a settings file must hold none; export it as an environment "
                    f"variable and write api_key_env: VARIABLE, or headers_env: {{{name}: VARIABLE}}"
                )
            if value == HIDDEN:
                raise ValueError(f"the value of {name} was left out when these settings were saved; write it again")
            if not all(" " <= character <= "~" for character in value):
                raise ValueError(f"the value of {name} has a character that no header may have; use printable ASCII")
        return headers

    @field_validator("headers", "headers_env")
    @classmethod
    def _names_of_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        for name in headers:
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a header's name: letters, digits and hyphens, without spaces or colon")
        return headers


class ServerOptions(EndpointOptions):
    """Settings of `openai`, any server with chat completions."""

    base_url: str
    """The address including `/v1`, where the server has it; `/chat/completions` is added."""
    query: dict[str, str] = {}
    """Added to the URL, for example Azure's api-version; none may be a credential."""
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The server's name for the limit of a reply's tokens. It is changed automatically if the server asks for the other."""

    @field_validator("query")
    @classmethod
    def _no_credentials_in_the_url(cls, query: dict[str, str]) -> dict[str, str]:
        for name in query:
            if _CREDENTIAL.search(name):
                raise ValueError(
                    f"{name} looks like a credential; send it as a header: headers_env: {{NAME: VARIABLE}}"
                )
        return query


class AnthropicOptions(EndpointOptions):
    """Settings of `anthropic`, the Messages API."""

    base_url: str = "https://api.anthropic.com"
    api_key_env: str | None = "ANTHROPIC_API_KEY"


_CREDENTIAL = re.compile(
    r"authoriz|token|secret|password|cookie|credential|apikey|(?<![a-z])(auth|key)(?![a-z])", re.IGNORECASE
)


class ScriptedOptions(Options):
    """Settings of `scripted`, a model that says what it was told to say: either `replies` or `function`."""

    replies: tuple[str, ...] = ()
    """The replies, given in this order."""
    function: str | None = None
    """`module:function`, called with messages and sampling; returns the reply."""
    cycle: bool = False
    """Begin again when all replies were said, instead of failing."""


_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
AnyOptions = TypeVar("AnyOptions", bound=Options)


def options_of(role: str, settings: ModelSettings, model: type[AnyOptions]) -> AnyOptions:
    """The backend's own settings, checked. Raises `SettingsError` naming the role and the nearest known key."""
    try:
        return model.model_validate(settings.options)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        key = f"{role}.{'.'.join(str(part) for part in first['loc'])}"
        if first["type"] == "extra_forbidden":
            known = [*model.model_fields, *ModelSettings.model_fields]
            hint = did_you_mean(str(first["loc"][-1]), known)
            raise SettingsError(f"unknown setting {key!r} for the backend {settings.backend}; {hint}") from error
        raise SettingsError(f"{key}: {message} (backend {settings.backend})") from error


def noting(role: str, surroundings: Surroundings) -> Callable[[str], None]:
    """A `note` that puts the role's name in front of each sentence."""
    return lambda sentence: surroundings.note(f"{role}: {sentence}")


def served_name(role: str, settings: ModelSettings) -> str:
    """The model's name on the server. Raises `SettingsError` when there is none."""
    if settings.model is None:
        raise SettingsError(f"{role}.model is missing: the backend {settings.backend} needs the model's name")
    return settings.model


def headers(role: str, options: EndpointOptions) -> dict[str, str]:
    """All headers to send, secret ones from the environment. Raises `SettingsError` for a variable that is not set."""
    secret = {
        header: from_environment(f"{role}.headers_env.{header}", variable)
        for header, variable in options.headers_env.items()
    }
    return {**options.headers, **secret}


def checked_key(role: str, options: EndpointOptions) -> str | None:
    """The name of the variable that holds the key, if there is to be one. Raises `SettingsError` if it is not set."""
    if options.api_key_env:
        from_environment(f"{role}.api_key_env", options.api_key_env)
    return options.api_key_env


def from_environment(setting: str, variable: str) -> str:
    """The value of an environment variable that holds a key or a header. Raises `SettingsError`, which never shows it."""
    value = os.environ.get(variable, "").strip()
    if not value:
        raise SettingsError(f"{setting}: the environment variable {variable} is not set; export it and run again")
    for at, character in enumerate(value, 1):
        if not " " <= character <= "~":
            what = "a line break" if character in "\r\n" else _invisible(character) or "a character that is not ASCII"
            raise SettingsError(
                f"{setting}: the environment variable {variable} holds {what} (character {at} of {len(value)}), which no "
                "key or header may have; copy the value anew, without line breaks and invisible characters, and export it"
            )
    return value


def _invisible(character: str) -> str | None:
    """The name of a character that is not seen; None for one that is, which may be a part of a secret."""
    if unicodedata.category(character)[0] not in "CZ":
        return None
    return f"the invisible character U+{ord(character):04X}"
