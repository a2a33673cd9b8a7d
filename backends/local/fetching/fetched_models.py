"""The models that are on this machine: what is known of each, and removing them."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from meteor_agents.backends.local.catalog import (
    CATALOG,
    RECORD,
    cache_root,
    gguf_file,
    is_hub_name,
    model_folder,
    parts_folder,
    resolve,
)
from meteor_agents.backends.local.fetching.watching import Watch
from meteor_agents.errors import UsageError


class Origin(BaseModel):
    """Where a fetched model came from, as its folder's `RECORD` says."""

    model_config = ConfigDict(frozen=True)

    source: str
    """The package that pip was asked for, or the address on the hub."""
    revision: str
    """`sha256:` and the digest of the GGUF file, or the commit on the hub."""
    licence: str
    """The licence's name as the source gives it, or `unknown`."""


class FetchedModel(BaseModel):
    """A model as `meteor models list` shows it."""

    model_config = ConfigDict(frozen=True)

    name: str
    folder: Path | None
    """None: not fetched."""
    gguf: Path | None
    """The verified GGUF file, if it is here."""
    bytes: int
    """What it takes on disk, with parts of an unfinished download."""
    origin: Origin


def listed_models() -> list[FetchedModel]:
    """Every known model, and every model of the hub that is here or was begun."""
    hub = {
        folder.relative_to(cache_root() / kind).as_posix()
        for kind in ("models", "parts")
        for folder in (cache_root() / kind).glob("*/*")
        if folder.is_dir()
    }
    return [_model(name) for name in (*CATALOG, *sorted(name for name in hub if is_hub_name(name)))]


def origin_of(name: str) -> Origin | None:
    """Where the fetched model of this name came from; None if it is not here, or does not say."""
    folder = resolve(name)
    try:
        return Origin.model_validate_json((folder / RECORD).read_bytes()) if folder else None
    except (OSError, ValidationError):
        return None


def write_origin(folder: Path, origin: Origin) -> None:
    """Leave the record in a model's folder, which makes it a complete one."""
    (folder / RECORD).write_text(json.dumps(origin.model_dump(), indent=1), encoding="utf-8")


def known_origin(name: str) -> Origin:
    """Where a model of the catalog comes from."""
    known = CATALOG[name]
    return Origin(source=known.source, revision=f"sha256:{known.sha256}", licence=known.licence)


def remove(name: str) -> int:
    """Delete all that was fetched of a model. Returns the bytes that were freed. Raises `UsageError` if nothing is here."""
    places = _places(name)
    freed = sum(_bytes(place) for place in places)
    if not any(place.exists() for place in places):
        raise UsageError(f"nothing of {name!r} is here; `meteor models list` shows what is")
    for place in places:
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
    for kind in ("models", "parts"):
        above = (cache_root() / kind / name).parent
        if is_hub_name(name) and above.is_dir() and not any(above.iterdir()):
            above.rmdir()
    return freed


@contextmanager
def alone(name: str, root: Path, watch: Watch) -> Iterator[None]:
    """Hold the lock of a model while it is fetched or removed; another process waits for it."""
    lock = root / "locks" / f"{name.replace('/', '--')}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as held:
        try:
            fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            watch.say(f"another process is fetching {name}; waiting for it")
            fcntl.lockf(held, fcntl.LOCK_EX)
        yield


def _model(name: str) -> FetchedModel:
    gguf = gguf_file(name)
    known = known_origin(name) if name in CATALOG else Origin(source="hub", revision="unknown", licence="unknown")
    return FetchedModel(
        name=name,
        folder=resolve(name),
        gguf=gguf if gguf.is_file() else None,
        bytes=sum(_bytes(place) for place in _places(name)),
        origin=origin_of(name) or known,
    )


def _places(name: str) -> list[Path]:
    """All paths that may hold something of a model. A name of another form has none: it could lead anywhere."""
    if name not in CATALOG and not is_hub_name(name):
        return []
    return [model_folder(name), gguf_file(name), parts_folder(name)]


def _bytes(place: Path) -> int:
    if place.is_dir():
        return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    return place.stat().st_size if place.is_file() else 0
