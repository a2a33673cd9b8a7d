"""A run never goes on with another revision of a fetched model than it began with."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

import pytest

from meteor_agents.assembly.pinned_models import pin_models
from meteor_agents.backends.local.catalog import model_folder
from meteor_agents.backends.local.fetching.fetched_models import Origin, write_origin
from meteor_agents.errors import SettingsError
from meteor_agents.settings.roles import ModelSettings
from meteor_agents.store.store import Store

MODELS = {"student": ModelSettings(backend="transformers", model="org/name"),
          "teacher": ModelSettings(backend="openai", model="org/name")}  # fmt: skip


def put(revision: str) -> None:
    folder = model_folder("org/name")
    folder.mkdir(parents=True, exist_ok=True)
    write_origin(folder, Origin(source="hub", revision=revision, licence="mit"))


def test_another_commit_is_refused_with_the_way_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METEOR_CACHE", str(tmp_path))
    put("aaa")
    with closing(Store(tmp_path / "run.db")) as store:
        asyncio.run(pin_models(store, MODELS))
        asyncio.run(pin_models(store, MODELS))
        put("bbb")
        with pytest.raises(SettingsError, match=r"began with org/name at aaa, and bbb .*fetch org/name --revision aaa"):
            asyncio.run(pin_models(store, MODELS))
        asyncio.run(pin_models(store, {"teacher": MODELS["teacher"]}))
