"""The student that no one has trained yet: its folder, its version, and whether it can be trained here."""

from __future__ import annotations

import hashlib
from pathlib import Path

from meteor_agents.errors import SettingsError
from meteor_agents.settings.roles import REFERENCE, ModelSettings
from meteor_agents.training import Checkpoint


def trains_here(settings: ModelSettings) -> bool:
    """Whether this backend serves weights of this machine, where they can be trained, and takes new ones."""
    if settings.backend == "sglang":
        return settings.model is not None and model_folder("student", settings).is_dir()
    return settings.backend == "transformers"


def base_checkpoint(settings: ModelSettings) -> Checkpoint:
    """The student that no one has trained yet. Only one that is trained here has a path."""
    path = model_folder("student", settings) if trains_here(settings) else Path()
    return Checkpoint(version=base_version(settings), path=path)


def base_version(settings: ModelSettings) -> str:
    """The weights version of a student that no one has trained yet: `base`, and which model that is."""
    return f"base-{hashlib.sha256(settings.identity.encode()).hexdigest()[:8]}"


def model_folder(role: str, settings: ModelSettings) -> Path:
    """The folder of a fetched model; else the name as a path, which may also be a name of the Hugging Face hub."""
    from meteor_agents.backends.local.catalog import resolve

    if settings.model is None:
        raise SettingsError(f"{role}.model is missing: the backend {settings.backend} needs a model folder or name")
    return resolve(settings.model) or Path(settings.model).expanduser()


def how_to_get(settings: ModelSettings) -> str:
    from meteor_agents.backends.local.catalog import CATALOG

    if settings.model in CATALOG:
        return f"fetch it first: meteor models fetch {settings.model}"
    return "download the model and name its folder (for example: hf download ORG/MODEL --local-dir FOLDER)"


def costs_money(settings: ModelSettings) -> bool:
    """Whether calls may be billed: by every backend that does not certainly compute here."""
    if settings.backend == "sglang" and "launch" in settings.options:
        return False
    return settings.backend not in ("transformers", "scripted", REFERENCE, "")
