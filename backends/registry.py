"""Opens a model or a trainer by its backend's name. A backend is imported when it is opened, not before.

Other packages add backends through the entry point group `meteor_agents.backends`. An entry point is a callable that takes
the role's `ModelSettings` and returns a `ChatModel`. If it has an attribute `Options` (a subclass of ours), its settings are
checked as those of a built-in backend are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import entry_points

from meteor_agents.backends.base_model import base_version, model_folder
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
from meteor_agents.errors import SettingsError
from meteor_agents.models import ChatModel
from meteor_agents.nearest import did_you_mean
from meteor_agents.settings.credentials import hidden_in
from meteor_agents.settings.roles import REFERENCE, ModelSettings
from meteor_agents.settings.run import Settings
from meteor_agents.settings.stages import STAGES_THAT_TRAIN
from meteor_agents.training import Trainer

ENTRY_POINTS = "meteor_agents.backends"
"""The entry point group of backends in other packages."""
Opener = Callable[[str, ModelSettings, Surroundings], ChatModel]
"""Opens the model of a role, from the role's name, its settings and the run's surroundings."""


def open_model(role: str, settings: ModelSettings, surroundings: Surroundings | None = None) -> ChatModel:
    """The chat model of a role; close it with `aclose`.

    Raises `SettingsError` for an unknown backend or a setting that cannot be used, and `MissingExtraError` for a package
    that is not installed.
    """
    if settings.backend == REFERENCE:
        raise SettingsError(f"{role}.backend: {REFERENCE} is a teacher only; the {role} needs a model")
    if hidden := hidden_in(settings.options):
        raise SettingsError(f"{role}.{hidden}: the value was left out when these settings were saved; write it again")
    opener = _BUILTIN.get(settings.backend) or _from_entry_point(settings.backend, role)
    return opener(role, settings, surroundings or Surroundings())


def open_trainer(settings: Settings) -> Trainer:
    """The trainer of the student. Raises `SettingsError` if the training settings of any stage cannot be used."""
    from meteor_agents.backends.training.config import check_training
    from meteor_agents.backends.training.trainer import DeepSpeedTrainer

    for stage in STAGES_THAT_TRAIN:
        training = settings.training_for(getattr(settings, stage))
        if training.backend != "deepspeed":
            raise SettingsError(f"training.backend: unknown backend {training.backend!r}; known: deepspeed")
        check_training(training)
    return DeepSpeedTrainer()


def backend_names() -> list[str]:
    """The names that `backend:` takes: built-in backends, `reference`, and those of other packages. Imports none of them."""
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
        note=noting(role, surroundings),
    )


def _openai(role: str, settings: ModelSettings, surroundings: Surroundings) -> ChatModel:
    from meteor_agents.backends.http.dialect import Accepts
    from meteor_agents.backends.http.openai_compatible import OpenAICompatibleModel
    from meteor_agents.backends.http.transport import Access, network_of

    options = options_of(role, settings, ServerOptions)
    return OpenAICompatibleModel(
        served_name(role, settings),
        options.base_url,
        access=Access(checked_key(role, options), headers(role, options), options.query),
        accepts=Accepts(options.token_limit, options.json_schema),
        note=noting(role, surroundings),
        network=network_of(settings.limits),
    )


def _anthropic(role: str, settings: ModelSettings, surroundings: Surroundings) -> ChatModel:
    from meteor_agents.backends.http.anthropic_messages import AnthropicModel
    from meteor_agents.backends.http.dialect import Accepts
    from meteor_agents.backends.http.transport import Access, network_of

    options = options_of(role, settings, AnthropicOptions)
    if settings.sampling.seed is not None:
        raise SettingsError(f"{role}.sampling.seed: the Messages API has no seeds; leave it out")
    return AnthropicModel(
        served_name(role, settings),
        options.base_url.rstrip("/").removesuffix("/v1"),
        access=Access(checked_key(role, options), headers(role, options)),
        accepts=Accepts(json_schema=options.json_schema),
        note=noting(role, surroundings),
        network=network_of(settings.limits),
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
    raise SettingsError(f"{role}.backend: unknown backend {name!r}; {did_you_mean(name, backend_names())}")


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
