"""Backend name -> object. Nothing is imported before it is asked for.

Other packages add chat models through the entry point group `meteor_agents.backends`: a callable that takes the role's
`ModelSettings` and returns a `ChatModel`. With an attribute `Options`, a subclass of ours, its settings are checked like
those of our own.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from meteor_agents.backends.checkpoint_folder import missing_parts
from meteor_agents.backends.reference import NAME as REFERENCE
from meteor_agents.errors import RefusedCallError, SettingsError
from meteor_agents.models import ChatMessage, ChatModel
from meteor_agents.settings import STAGES_THAT_TRAIN, ModelSettings, Settings
from meteor_agents.training import Checkpoint, Trainer

ENTRY_POINTS = "meteor_agents.backends"
HIDDEN = "***"
"""What a run directory's config.yaml holds in the place of a header's value."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a backend may use of the run that it is opened for."""

    logs: Path | None = None
    """The folder for what a launched server writes; None: one for temporary files."""
    note: Callable[[str], None] = lambda sentence: None
    """Hears what the people who watch the run should know."""


class Options(BaseModel):
    """The settings of one backend beyond those that every model has."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TransformersOptions(Options):
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_batch: int = 64
    """Sequences decoded together, beams counted."""
    quantization: dict[str, Any] | None = None
    """transformers' `quantization_config`, for example {quant_method: bitsandbytes, load_in_8bit: true}."""


class EndpointOptions(Options):
    """What every server that is asked over HTTP can be given."""

    api_key_env: str | None = None
    """The environment variable that holds the key."""
    headers: dict[str, str] = {}
    """Sent along as they are; none may be a credential."""
    headers_env: dict[str, str] = {}
    """Header -> the environment variable that holds its value."""
    json_schema: bool = True
    """Hold replies that are read by a program (verdicts, scores) to a JSON schema, where the server can."""

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
        return headers


class ServerOptions(EndpointOptions):
    base_url: str
    query: dict[str, str] = {}
    """Added to the URL, for example Azure's api-version; none may be a credential."""
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """How the server calls the limit of a reply's tokens. A server that asks for the other name gets it by itself."""

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
    base_url: str = "https://api.anthropic.com"
    api_key_env: str | None = "ANTHROPIC_API_KEY"


_CREDENTIAL = re.compile(
    r"authoriz|token|secret|password|cookie|credential|apikey|(?<![a-z])(auth|key)(?![a-z])", re.IGNORECASE
)


class ScriptedOptions(Options):
    replies: tuple[str, ...] = ()
    function: str | None = None
    """module:function of (messages, sampling) -> reply."""
    cycle: bool = False


AnyOptions = TypeVar("AnyOptions", bound=Options)
Opener = Callable[[str, ModelSettings, Surroundings], ChatModel]


def open_model(role: str, settings: ModelSettings, surroundings: Surroundings | None = None) -> ChatModel:
    """The chat model of a role. Raises `SettingsError`, `MissingExtraError`."""
    if settings.backend == REFERENCE:
        raise SettingsError(f"{role}.backend: {REFERENCE} is a teacher only; the {role} needs a model")
    opener = _BUILTIN.get(settings.backend) or _from_entry_point(settings.backend, role)
    return opener(role, settings, surroundings or Surroundings())


def open_trainer(settings: Settings) -> Trainer:
    """What trains the student; the training settings of every stage can be used. Raises `SettingsError`."""
    from meteor_agents.backends.deepspeed_config import check_training
    from meteor_agents.backends.deepspeed_trainer import DeepSpeedTrainer

    for stage in STAGES_THAT_TRAIN:
        training = settings.training_for(getattr(settings, stage))
        if training.backend != "deepspeed":
            raise SettingsError(f"training.backend: unknown backend {training.backend!r}; known: deepspeed")
        check_training(training)
    return DeepSpeedTrainer()


def check_trainable(settings: ModelSettings) -> None:
    """Training starts from a complete folder on this machine. Raises `SettingsError` that says how to get one."""
    if not trains_here(settings):
        raise SettingsError(
            f"student.backend: a student of the backend {settings.backend} cannot be trained here; use "
            "`backend: transformers` or `sglang` with a model folder, or --no-train for conversations only"
        )
    if settings.options.get("quantization"):
        raise SettingsError(
            "student.quantization: quantised weights are not replaced by trained ones; leave it out, or use --no-train"
        )
    folder = _model_folder("student", settings)
    if not folder.is_dir():
        raise SettingsError(
            f"student.model: {settings.model!r} is no folder on this machine, and training starts from one; "
            f"{_how_to_get(settings)}"
        )
    if missing := missing_parts(folder):
        raise SettingsError(f"student.model: training cannot start from {folder}: it lacks {', '.join(missing)}")


def check_chat(settings: ModelSettings) -> None:
    """What is learned from chats is learned as it was said. Raises `SettingsError` where the chat template prevents that."""
    from transformers import AutoTokenizer

    from meteor_agents.backends.chat_template import conversation_ids

    said = [ChatMessage(role=role, content=content) for role, content in _A_CHAT]
    try:
        conversation_ids(AutoTokenizer.from_pretrained(base_checkpoint(settings).path), said)
    except RefusedCallError as error:
        raise SettingsError(f"refine.conversion: {error}") from error


_A_CHAT: tuple[tuple[Literal["user", "assistant"], str], ...] = (
    ("user", "One plus two?"),
    ("assistant", "Four."),
    ("user", "No."),
    ("assistant", "Three."),
)


def trains_here(settings: ModelSettings) -> bool:
    """Whether this backend serves weights of this machine, where they can be trained, and takes new ones."""
    if settings.backend == "sglang":
        return settings.model is not None and _model_folder("student", settings).is_dir()
    return settings.backend == "transformers"


def costs_money(settings: ModelSettings) -> bool:
    """Whether calls may be billed: by every backend that does not certainly compute here."""
    if settings.backend == "sglang" and "launch" in settings.options:
        return False
    return settings.backend not in ("transformers", "scripted", REFERENCE, "")


def base_checkpoint(settings: ModelSettings) -> Checkpoint:
    """The student that no one has trained yet. Only one that is trained here has a path."""
    path = _model_folder("student", settings) if trains_here(settings) else Path()
    return Checkpoint(version=base_version(settings), path=path)


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
        message = first["msg"].removeprefix("Value error, ")
        key = f"{role}.{'.'.join(str(part) for part in first['loc'])}"
        if first["type"] == "extra_forbidden":
            known = [*model.model_fields, *ModelSettings.model_fields]
            near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise SettingsError(f"unknown setting {key!r} for the backend {settings.backend}; {hint}") from error
        raise SettingsError(f"{key}: {message} (backend {settings.backend})") from error


def _model_folder(role: str, settings: ModelSettings) -> Path:
    """The folder of a fetched model; else the name as a path, which may also be a name of the Hugging Face hub."""
    from meteor_agents.backends.model_catalog import resolve

    if settings.model is None:
        raise SettingsError(f"{role}.model is missing: the backend {settings.backend} needs a model folder or name")
    return resolve(settings.model) or Path(settings.model).expanduser()


def _how_to_get(settings: ModelSettings) -> str:
    from meteor_agents.backends.model_catalog import CATALOG

    if settings.model in CATALOG:
        return f"fetch it first: meteor models fetch {settings.model}"
    return "download the model and name its folder (for example: hf download ORG/MODEL --local-dir FOLDER)"


def _transformers(role: str, settings: ModelSettings, surroundings: Surroundings) -> ChatModel:
    options = options_of(role, settings, TransformersOptions)
    folder = _model_folder(role, settings)
    from meteor_agents.backends.transformers_local import TransformersModel

    return TransformersModel(
        folder,
        base_version(settings),
        device=options.device,
        dtype=options.dtype,
        max_batch=options.max_batch,
        quantization=options.quantization,
        name=settings.model,
    )


def _openai(role: str, settings: ModelSettings, surroundings: Surroundings) -> ChatModel:
    from meteor_agents.backends.openai_compatible import OpenAICompatibleModel

    options = options_of(role, settings, ServerOptions)
    return OpenAICompatibleModel(
        served_name(role, settings),
        options.base_url,
        api_key_env=checked_key(role, options),
        headers=headers(role, options),
        query=options.query,
        token_limit=options.token_limit,
        json_schema=options.json_schema,
        note=noting(role, surroundings),
        timeout_s=settings.limits.read_timeout_s or settings.limits.timeout_s,
        connect_timeout_s=settings.limits.connect_timeout_s,
    )


def _anthropic(role: str, settings: ModelSettings, surroundings: Surroundings) -> ChatModel:
    from meteor_agents.backends.anthropic_messages import AnthropicModel

    options = options_of(role, settings, AnthropicOptions)
    if settings.sampling.seed is not None:
        raise SettingsError(f"{role}.sampling.seed: the Messages API has no seeds; leave it out")
    return AnthropicModel(
        served_name(role, settings),
        options.base_url.rstrip("/").removesuffix("/v1"),
        api_key_env=checked_key(role, options),
        headers=headers(role, options),
        json_schema=options.json_schema,
        note=noting(role, surroundings),
        timeout_s=settings.limits.read_timeout_s or settings.limits.timeout_s,
        connect_timeout_s=settings.limits.connect_timeout_s,
    )


def noting(role: str, surroundings: Surroundings) -> Callable[[str], None]:
    """Notes about a role begin with its name."""
    return lambda sentence: surroundings.note(f"{role}: {sentence}")


def _sglang(role: str, settings: ModelSettings, surroundings: Surroundings) -> ChatModel:
    from meteor_agents.backends.sglang_opening import open_sglang

    return open_sglang(role, settings, surroundings)


def served_name(role: str, settings: ModelSettings) -> str:
    """The name that the server uses. Raises `SettingsError` when there is none."""
    if settings.model is None:
        raise SettingsError(f"{role}.model is missing: the backend {settings.backend} needs the model's name")
    return settings.model


def headers(role: str, options: EndpointOptions) -> dict[str, str]:
    """Those of the settings, the secret ones out of the environment."""
    secret = {
        header: _from_environment(f"{role}.headers_env.{header}", variable)
        for header, variable in options.headers_env.items()
    }
    return {**options.headers, **secret}


def checked_key(role: str, options: EndpointOptions) -> str | None:
    """The variable that holds the key, which is there."""
    if options.api_key_env:
        _from_environment(f"{role}.api_key_env", options.api_key_env)
    return options.api_key_env


def _from_environment(setting: str, variable: str) -> str:
    value = os.environ.get(variable, "").strip()
    if not value:
        raise SettingsError(f"{setting}: the environment variable {variable} is not set; export it and run again")
    return value


def _scripted(role: str, settings: ModelSettings, surroundings: Surroundings) -> ChatModel:
    from meteor_agents.backends.scripted import ScriptedModel, reply_function

    options = options_of(role, settings, ScriptedOptions)
    if bool(options.replies) == bool(options.function):
        raise SettingsError(f"{role}: the backend scripted needs either replies or function")
    try:
        replies = reply_function(options.function) if options.function else options.replies
    except SettingsError as error:
        raise SettingsError(f"{role}.{error}") from error
    return ScriptedModel(replies, settings.identity, base_version(settings), cycle=options.cycle)


def _from_entry_point(name: str, role: str) -> Opener:
    for point in entry_points(group=ENTRY_POINTS, name=name):
        try:
            opener: Callable[[ModelSettings], ChatModel] = point.load()
        except ImportError as error:
            raise SettingsError(f"{role}.backend: {name} ({point.value}) cannot be imported: {error}") from error
        return partial(_open_checked, opener)
    known = backend_names()
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    raise SettingsError(f"{role}.backend: unknown backend {name!r}; {hint}")


def _open_checked(
    opener: Callable[[ModelSettings], ChatModel], role: str, settings: ModelSettings, surroundings: Surroundings
) -> ChatModel:
    options = getattr(opener, "Options", None)
    if options is not None:
        options_of(role, settings, options)
    return opener(settings)


_BUILTIN: Mapping[str, Opener] = {
    "transformers": _transformers,
    "openai": _openai,
    "anthropic": _anthropic,
    "sglang": _sglang,
    "scripted": _scripted,
}
