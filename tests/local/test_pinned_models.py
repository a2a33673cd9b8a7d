"""A run never goes on with other models than it began with."""

from __future__ import annotations

import asyncio
import os
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


def test_changed_weights_of_an_own_folder_are_refused_and_touched_ones_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    weights = folder / "model.safetensors"
    weights.write_bytes(b"weights")
    own = {"student": ModelSettings(backend="transformers", model=str(folder))}
    with closing(Store(tmp_path / "run.db")) as store:
        asyncio.run(pin_models(store, own))
        os.utime(weights, ns=(1, 1))
        asyncio.run(pin_models(store, own))
        weights.write_bytes(b"WEIGHTS")
        for _ in range(2):
            with pytest.raises(SettingsError, match=r"other weights in .*model: model.safetensors changed since"):
                asyncio.run(pin_models(store, own))
        weights.write_bytes(b"weights")
        asyncio.run(pin_models(store, own))
        (folder / "model-2.safetensors").write_bytes(b"more")
        with pytest.raises(SettingsError, match=r"model-2.safetensors changed"):
            asyncio.run(pin_models(store, own))
