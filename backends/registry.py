"""Backend name -> object. Nothing is imported before it is asked for.

Other packages add chat models through the entry point group `meteor_agents.backends`: a callable that takes the role's
`ModelSettings` and returns a `ChatModel`.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import os
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from meteor_agents.backends.reference import NAME as REFERENCE
from meteor_agents.errors import SettingsError
from meteor_agents.models import ChatModel
from meteor_agents.settings import ModelSettings
from meteor_agents.training import Trainer

ENTRY_POINTS = "meteor_agents.backends"


class Options(BaseModel):
    """The settings of one backend beyond those that every model has."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TransformersOptions(Options):
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_batch: int = 64
    """Sequences decoded together, beams counted."""


class ServerOptions(Options):
    base_url: str
    api_key_env: str | None = None
    """The environment variable that holds the key."""
    headers: dict[str, str] = {}


class ScriptedOptions(Options):
    replies: tuple[str, ...] = ()
    function: str | None = None
    """module:function of (messages, sampling) -> reply."""
    cycle: bool = False


AnyOptions = TypeVar("AnyOptions", bound=Options)


def open_model(role: str, settings: ModelSettings) -> ChatModel:
    """The chat model of a role. Raises `SettingsError`, `MissingExtraError`."""
    opener = _BUILTIN.get(settings.backend) or _from_entry_point(settings.backend, role)
    return opener(role, settings)


def open_trainer(backend: str) -> Trainer:
    if backend != "deepspeed":
        raise SettingsError(f"training.backend: unknown backend {backend!r}; known: deepspeed")
    from meteor_agents.backends.deepspeed_trainer import DeepSpeedTrainer

    return DeepSpeedTrainer()


def student_folder(settings: ModelSettings) -> Path | None:
    """The Hugging Face folder of a student that runs here, which training starts from; None for one on a server."""
    if settings.backend != "transformers" or settings.model is None:
        return None
    from meteor_agents.backends.model_catalog import resolve

    return resolve(settings.model) or Path(settings.model).expanduser()


def base_version(settings: ModelSettings) -> str:
    """The weights version of a student that no one has trained yet: `base`, and which model that is."""
    return f"base-{hashlib.sha256(settings.identity.encode()).hexdigest()[:8]}"


def backend_names() -> list[str]:
    return sorted({*_BUILTIN, REFERENCE, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def options_of(role: str, settings: ModelSettings, model: type[AnyOptions]) -> AnyOptions:
    """The backend's own settings, checked. Raises `SettingsError` naming the role and the nearest known key."""
    try:
        return model.model_validate(settings.options)
    except ValidationError as error:
        first = error.errors()[0]
        key = f"{role}.{'.'.join(str(part) for part in first['loc'])}"
        if first["type"] == "extra_forbidden":
            known = [*model.model_fields, *ModelSettings.model_fields]
            near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise SettingsError(f"unknown setting {key!r} for the backend {settings.backend}; {hint}") from error
        raise SettingsError(f"{key}: {first['msg']} (backend {settings.backend})") from error


def _transformers(role: str, settings: ModelSettings) -> ChatModel:
    options = options_of(role, settings, TransformersOptions)
    folder = student_folder(settings)
    if folder is None:
        raise SettingsError(f"{role}.model is missing: the backend transformers needs a model folder or name")
    from meteor_agents.backends.transformers_local import TransformersModel

    return TransformersModel(
        folder,
        base_version(settings),
        device=options.device,
        dtype=options.dtype,
        max_batch=options.max_batch,
        name=settings.model,
    )


def _openai(role: str, settings: ModelSettings) -> ChatModel:
    options = options_of(role, settings, ServerOptions)
    return _server(role, settings, options, options.base_url)


def _sglang(role: str, settings: ModelSettings) -> ChatModel:
    """SGLang speaks the OpenAI interface under /v1 of its root URL."""
    options = options_of(role, settings, ServerOptions)
    root = options.base_url.rstrip("/").removesuffix("/v1")
    return _server(role, settings, options, f"{root}/v1")


def _server(role: str, settings: ModelSettings, options: ServerOptions, base_url: str) -> ChatModel:
    from meteor_agents.backends.openai_compatible import OpenAICompatibleModel

    if settings.model is None:
        raise SettingsError(f"{role}.model is missing: the backend {settings.backend} needs the model's name")
    if options.api_key_env and not os.environ.get(options.api_key_env):
        raise SettingsError(
            f"{role}.api_key_env: the environment variable {options.api_key_env} is not set; export it and run again"
        )
    return OpenAICompatibleModel(
        base_url=base_url,
        model=settings.model,
        api_key_env=options.api_key_env,
        headers=options.headers,
        timeout_s=settings.limits.timeout_s,
    )


def _scripted(role: str, settings: ModelSettings) -> ChatModel:
    from meteor_agents.backends.scripted import ScriptedModel

    options = options_of(role, settings, ScriptedOptions)
    if bool(options.replies) == bool(options.function):
        raise SettingsError(f"{role}: the backend scripted needs either replies or function")
    replies = _function(role, options.function) if options.function else options.replies
    return ScriptedModel(replies, settings.identity, base_version(settings), cycle=options.cycle)


def _function(role: str, path: str) -> Callable[..., str]:
    module, _, name = path.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(f"{role}.function: {path!r} cannot be loaded: {error}") from error
    if not callable(function):
        raise SettingsError(f"{role}.function: {path!r} is not a function")
    return function  # type: ignore[no-any-return]  # a user's function, called as documented


def _from_entry_point(name: str, role: str) -> Callable[[str, ModelSettings], ChatModel]:
    for point in entry_points(group=ENTRY_POINTS, name=name):
        try:
            opener: Callable[[ModelSettings], ChatModel] = point.load()
        except ImportError as error:
            raise SettingsError(f"{role}.backend: {name} ({point.value}) cannot be imported: {error}") from error
        return lambda role, settings: opener(settings)
    known = backend_names()
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    raise SettingsError(f"{role}.backend: unknown backend {name!r}; {hint}")


_BUILTIN: Mapping[str, Callable[[str, ModelSettings], ChatModel]] = {
    "transformers": _transformers,
    "openai": _openai,
    "sglang": _sglang,
    "scripted": _scripted,
}
