"""The models on this machine that a run began with, so that it never goes on with other ones under the same name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from meteor_agents.backends.local.catalog import CATALOG, resolve
from meteor_agents.backends.local.fetching.fetched_models import Origin, origin_of
from meteor_agents.errors import SettingsError
from meteor_agents.settings.roles import MODEL_FOLDERS, ModelSettings
from meteor_agents.store.store import Store
from meteor_agents.weight_files import weights_now

PINNED = "fetched models"
"""The fact of the store that holds them: name -> source, revision, licence."""


WEIGHTS = "model folders"
"""The fact of the store that holds the weight files of a user's own folders: model -> file -> bytes, time, CRC-32."""


async def pin_models(store: Store, models: Mapping[str, ModelSettings]) -> None:
    """Record the revision of every fetched model, and the weights of every other folder, among the run's models.

    Raises `SettingsError` when the run began with others, and says how to get them back.
    """
    await _pin_revisions(store, models)
    await _pin_weights(store, models)


async def _pin_revisions(store: Store, models: Mapping[str, ModelSettings]) -> None:
    known: dict[str, dict[str, str]] = store.meta(PINNED, {})
    now = {name: origin.model_dump() for name, origin in _origins(models).items()}
    for name, origin in now.items():
        began = Origin.model_validate(known.get(name, origin)).revision
        if began != origin["revision"]:
            raise SettingsError(
                f"this run began with {name} at {began}, and {origin['revision']} is here now. {_way_back(name, began)}, "
                "or start over with --fresh"
            )
    if not now.keys() <= known.keys():
        await store.set_meta(PINNED, {**now, **known})


async def _pin_weights(store: Store, models: Mapping[str, ModelSettings]) -> None:
    known: dict[str, dict[str, dict[str, Any]]] = store.meta(WEIGHTS, {})
    own = [model.model for model in models.values()
           if model.backend in MODEL_FOLDERS and model.model and resolve(model.model) is None]  # fmt: skip
    now = await asyncio.to_thread(_weights_of, own, known)
    for name, files in now.items():
        began = known.get(name, files)
        contents, contents_began = ({file: of["crc32"] for file, of in some.items()} for some in (files, began))
        if changed := sorted(file for file, _ in contents.items() ^ contents_began.items()):
            raise SettingsError(
                f"this run began with other weights in {name}: {', '.join(dict.fromkeys(changed))} changed since. Put them "
                "back, or start over with --fresh"
            )
    if any(known.get(name) != files for name, files in now.items()):
        await store.set_meta(WEIGHTS, {**known, **now})


def _weights_of(names: Iterable[str], known: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Model -> its weight files now; a name that is no folder here is left out."""
    folders = {name: Path(name).expanduser() for name in names}
    return {name: weights_now(folder, known.get(name, {})) for name, folder in folders.items() if folder.is_dir()}


def _origins(models: Mapping[str, ModelSettings]) -> dict[str, Origin]:
    """Name -> origin, of models that are loaded from a folder here and were fetched."""
    names = {model.model for model in models.values() if model.backend in MODEL_FOLDERS and model.model}
    return {name: origin for name in sorted(names) if (origin := origin_of(name)) is not None}


def _way_back(name: str, began: str) -> str:
    if name in CATALOG:
        return "Use the version of meteor-agents that the run began with"
    return f"To get it back: meteor models remove {name}, then meteor models fetch {name} --revision {began}"
