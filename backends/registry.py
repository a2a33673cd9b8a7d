"""Backend name -> object. Nothing is imported before it is asked for.

Other packages add chat models through the entry point group `meteor_agents.backends`: a callable that takes the role's
`ModelSettings` and returns a `ChatModel`. With an attribute `Options`, a subclass of ours, its settings are checked like
those of our own.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import entry_points
from typing import Literal

from meteor_agents.backends.base_model import base_checkpoint, base_version, how_to_get, model_folder, trains_here
from meteor_agents.backends.options import (
    AnthropicOptions,
    ScriptedOptions,
    ServerOptions,
    Surroundings,
    TransformersOptions,
    checked_key,
    headers,
    noting,
    options_of,
    served_name,
)
from meteor_agents.backends.options import Options as Options  # the public path for backends outside this package
from meteor_agents.errors import RefusedCallError, SettingsError
from meteor_agents.models import ChatMessage, ChatModel
from meteor_agents.settings.credentials import hidden_in
from meteor_agents.settings.roles import REFERENCE, ModelSettings
from meteor_agents.settings.run import Settings
from meteor_agents.settings.stages import STAGES_THAT_TRAIN
from meteor_agents.training import Trainer
from meteor_agents.weight_files import missing_parts

ENTRY_POINTS = "meteor_agents.backends"


















Opener = Callable[[str, ModelSettings, Surroundings], ChatModel]


def open_model(role: str, settings: ModelSettings, surroundings: Surroundings | None = None) -> ChatModel:
    """The chat model of a role. Raises `SettingsError`, `MissingExtraError`."""
    if settings.backend == REFERENCE:
        raise SettingsError(f"{role}.backend: {REFERENCE} is a teacher only; the {role} needs a model")
    if hidden := hidden_in(settings.options):
        raise SettingsError(f"{role}.{hidden}: the value was left out when these settings were saved; write it again")
    opener = _BUILTIN.get(settings.backend) or _from_entry_point(settings.backend, role)
    return opener(role, settings, surroundings or Surroundings())


def open_trainer(settings: Settings) -> Trainer:
    """What trains the student; the training settings of every stage can be used. Raises `SettingsError`."""
    from meteor_agents.backends.training.config import check_training
    from meteor_agents.backends.training.trainer import DeepSpeedTrainer

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
    folder = model_folder("student", settings)
    if not folder.is_dir():
        raise SettingsError(
            f"student.model: {settings.model!r} is no folder on this machine, and training starts from one; "
            f"{how_to_get(settings)}"
        )
    if missing := missing_parts(folder):
        raise SettingsError(f"student.model: training cannot start from {folder}: it lacks {', '.join(missing)}")


def check_chat(settings: ModelSettings) -> None:
    """What is learned from chats is learned as it was said. Raises `SettingsError` where the chat template prevents that."""
    from transformers import AutoTokenizer

    from meteor_agents.backends.local.chat_template import conversation_ids

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










def backend_names() -> list[str]:
    return sorted({*_BUILTIN, REFERENCE, *(point.name for point in entry_points(group=ENTRY_POINTS))})








def _transformers(role: str, settings: ModelSettings, surroundings: Surroundings) -> ChatModel:
    options = options_of(role, settings, TransformersOptions)
    folder = model_folder(role, settings)
    from meteor_agents.backends.local.model import TransformersModel

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
    from meteor_agents.backends.http.openai_compatible import OpenAICompatibleModel

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
    from meteor_agents.backends.http.anthropic_messages import AnthropicModel

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




def _sglang(role: str, settings: ModelSettings, surroundings: Surroundings) -> ChatModel:
    from meteor_agents.backends.sglang_servers.opening import open_sglang

    return open_sglang(role, settings, surroundings)










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
