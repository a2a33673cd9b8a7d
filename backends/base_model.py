"""The untrained student: its folder, its version, and whether it can be trained here."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from meteor_agents.errors import RefusedCallError, SettingsError
from meteor_agents.models import ChatMessage
from meteor_agents.settings.roles import REFERENCE, ModelSettings
from meteor_agents.training import Checkpoint
from meteor_agents.weight_files import missing_parts


def trains_here(settings: ModelSettings) -> bool:
    """Whether the weights are on this machine, where they can be trained, and the backend takes new ones."""
    if settings.backend == "sglang":
        return settings.model is not None and model_folder("student", settings).is_dir()
    return settings.backend == "transformers"


def base_checkpoint(settings: ModelSettings) -> Checkpoint:
    """The untrained student as a checkpoint. It has a path only if it can be trained here."""
    path = model_folder("student", settings) if trains_here(settings) else Path()
    return Checkpoint(version=base_version(settings), path=path)


def base_version(settings: ModelSettings) -> str:
    """The weights version of an untrained student: `base-` and eight digits that stand for the model."""
    return f"base-{hashlib.sha256(settings.identity.encode()).hexdigest()[:8]}"


def model_folder(role: str, settings: ModelSettings) -> Path:
    """The folder of a model that `meteor models fetch` fetched, else `model` itself as a path.

    The path may not exist: a name of the Hugging Face hub looks like one. Raises `SettingsError` without `model`.
    """
    from meteor_agents.backends.local.catalog import resolve

    if settings.model is None:
        raise SettingsError(f"{role}.model is missing: the backend {settings.backend} needs a model folder or name")
    return resolve(settings.model) or Path(settings.model).expanduser()


def check_trainable(settings: ModelSettings) -> None:
    """Check that the student is a complete model folder on this machine, which training starts from.

    Raises `SettingsError`, with how to get one.
    """
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
    """Check that the student's chat template keeps earlier turns as they were said, as training on chats needs.

    Raises `SettingsError` if it does not.
    """
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


def how_to_get(settings: ModelSettings) -> str:
    """For an error about a model that is not here: the command that fetches it."""
    from meteor_agents.backends.local.catalog import how_to_fetch

    if command := how_to_fetch(settings.model or ""):
        return f"fetch it first: {command}"
    return "name a model's folder, or a model from `meteor models list`, or fetch one: meteor models fetch ORG/NAME"


def costs_money(settings: ModelSettings) -> bool:
    """Whether calls may be billed. True for every backend that may compute somewhere else."""
    if settings.backend == "sglang" and "launch" in settings.options:
        return False
    return settings.backend not in ("transformers", "scripted", REFERENCE, "")
