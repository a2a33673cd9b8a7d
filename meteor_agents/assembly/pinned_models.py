"""The revision of each fetched model that a run began with, so that it never goes on with another one."""

from __future__ import annotations

from collections.abc import Mapping

from meteor_agents.backends.local.catalog import CATALOG
from meteor_agents.backends.local.fetching.fetched_models import Origin, origin_of
from meteor_agents.errors import SettingsError
from meteor_agents.settings.roles import MODEL_FOLDERS, ModelSettings
from meteor_agents.store.store import Store

PINNED = "fetched models"
"""The fact of the store that holds them: name -> source, revision, licence."""


async def pin_models(store: Store, models: Mapping[str, ModelSettings]) -> None:
    """Record the revision of every fetched model among the run's models.

    Raises `SettingsError` when the run began with another revision of one, and says how to get it back.
    """
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


def _origins(models: Mapping[str, ModelSettings]) -> dict[str, Origin]:
    """Name -> origin, of models that are loaded from a folder here and were fetched."""
    names = {model.model for model in models.values() if model.backend in MODEL_FOLDERS and model.model}
    return {name: origin for name in sorted(names) if (origin := origin_of(name)) is not None}


def _way_back(name: str, began: str) -> str:
    if name in CATALOG:
        return "Use the version of meteor-agents that the run began with"
    return f"To get it back: meteor models remove {name}, then meteor models fetch {name} --revision {began}"
