"""A model of the Hugging Face hub, through huggingface_hub: safetensors and text only, at one commit."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from meteor_agents.backends.local.catalog import RECORD, model_folder, parts_folder
from meteor_agents.backends.local.fetching.costs import Cost, size
from meteor_agents.backends.local.fetching.fetched_models import Origin, write_origin
from meteor_agents.backends.local.fetching.watching import Watch
from meteor_agents.errors import MissingExtraError, UsageError

WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.tiktoken", "vocab.txt", "merges.txt", "LICENSE*")
"""What a model folder needs, at the top of the repository."""
UNWANTED = ("consolidated*", RECORD)
"""The same weights a second time, as some vendors add them."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
"""Weights that run code when they are loaded."""
TOKEN = "HF_TOKEN"
"""The environment variable that holds the key; there is no other way to give one."""


def fetch_from_hub(name: str, revision: str | None, root: Path, watch: Watch) -> Path:
    """The folder of `org/name`, fetched at the commit that `revision` (None: the main branch) stands for now.

    Raises `UsageError` in words for everything that can be wrong: no such model, gated, offline, only pickles, no room.
    """
    folder = model_folder(name, root)
    if (folder / RECORD).is_file():
        return _already_there(name, revision, folder, watch)
    if importlib.util.find_spec("huggingface_hub") is None:
        raise MissingExtraError("a model of the Hugging Face hub", "local")
    info = _info(name, revision)
    files = _wanted_files(name, info)
    parts = parts_folder(name, root)
    total = sum(file.size or 0 for file in files)
    here = _bytes_in(parts)
    cost = Cost(max(0, total - here), total, max(0, total - here))
    licence = _licence(info)
    watch.say(f"{cost.sentence(name, root)}; licence {licence}; commit {info.sha}")
    cost.check_room(name, root)
    parts.mkdir(parents=True, exist_ok=True)
    with _measured(parts, total, watch):
        _download(name, info.sha, [file.rfilename for file in files], parts)
    _check(name, files, parts)
    shutil.rmtree(parts / ".cache", ignore_errors=True)
    write_origin(parts, Origin(source=f"{_endpoint()}/{name}", revision=info.sha, licence=licence))
    folder.parent.mkdir(parents=True, exist_ok=True)
    parts.rename(folder)
    watch.say(f"{name} is in {folder}")
    return folder


def _already_there(name: str, revision: str | None, folder: Path, watch: Watch) -> Path:
    commit = Origin.model_validate_json((folder / RECORD).read_bytes()).revision
    if revision is not None and not commit.startswith(revision):
        raise UsageError(
            f"{name} is here at commit {commit}. To have {revision}: meteor models remove {name}, then "
            f"meteor models fetch {name} --revision {revision}"
        )
    watch.say(f"{name} is already in {folder}, at commit {commit}")
    return folder


def _info(name: str, revision: str | None) -> Any:
    from huggingface_hub import HfApi

    with _errors_in_words(name, revision):
        return HfApi().model_info(name, revision=revision, files_metadata=True, token=_token())


def _token() -> str | bool:
    """The key from the environment. Never one that another program has left on disk."""
    return os.environ.get(TOKEN) or False


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _wanted_files(name: str, info: Any) -> list[Any]:
    top = [file for file in info.siblings or () if "/" not in file.rfilename]
    wanted = [file for file in top if _matches(file, WANTED) and not _matches(file, UNWANTED)]
    if not any(_matches(file, ("*.safetensors",)) for file in wanted):
        if any(_matches(file, PICKLES) for file in top):
            raise UsageError(
                f"{name} has its weights as Python pickles only, which can run any code when they are loaded; they are not "
                "fetched. Look for a repository that holds the same model as safetensors"
            )
        raise UsageError(f"{name} holds no *.safetensors, so there is no model that can be used here")
    if not any(file.rfilename == "config.json" for file in wanted):
        raise UsageError(f"{name} holds no config.json, so there is no model that can be used here")
    return wanted


def _matches(file: Any, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(file.rfilename, pattern) for pattern in patterns)


def _licence(info: Any) -> str:
    card = info.card_data
    given = card.get("license") if card is not None else None
    tags = [tag.partition(":")[2] for tag in info.tags or () if tag.startswith("license:")]
    return str(given or next(iter(tags), "unknown"))


def _download(name: str, commit: str, files: list[str], folder: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    with _errors_in_words(name, commit):
        snapshot_download(name, revision=commit, local_dir=folder, allow_patterns=files, token=_token(), max_workers=4)


def _check(name: str, files: list[Any], folder: Path) -> None:
    """Each file has the size, and the SHA-256 where the hub gives one, that it should have."""
    for file in files:
        path = folder / file.rfilename
        if not path.is_file() or (file.size is not None and path.stat().st_size != file.size):
            raise UsageError(
                f"{name}: {file.rfilename} did not arrive whole; run the command again, it goes on where it stopped"
            )
        expected = file.lfs.sha256 if file.lfs else None
        if expected is None:
            continue
        with path.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != expected:
            path.unlink()
            raise UsageError(
                f"{name}: {file.rfilename} is not the file that the hub lists: sha256 {expected} was expected, {found} was "
                "found. It was deleted; run the command again"
            )


@contextmanager
def _errors_in_words(name: str, revision: str | None) -> Iterator[None]:
    from huggingface_hub import errors

    where = _endpoint()
    key = f"export {TOKEN}" if TOKEN not in os.environ else f"the key in {TOKEN} may not read it"
    try:
        yield
    except errors.GatedRepoError as error:
        raise UsageError(
            f"{name} is gated: accept its terms at {where}/{name}, and export a key of that account as {TOKEN} ({key})"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UsageError(f"{name} has no revision {revision!r} on {where}") from error
    except errors.RepositoryNotFoundError as error:
        raise UsageError(f"there is no model {name} on {where}, or it is private: check the name, or {key}") from error
    except errors.OfflineModeIsEnabled as error:
        raise UsageError(f"{name} is not here, and HF_HUB_OFFLINE forbids asking the hub; unset it to fetch") from error
    except errors.HFValidationError as error:
        raise UsageError(f"{name!r} is no name that the hub can have: {_first_line(error)}") from error
    except errors.HfHubHTTPError as error:
        raise UsageError(f"{where} refused {name}: {_first_line(error)}; try again later") from error
    except Exception as error:  # which HTTP library raises here depends on the version of huggingface_hub
        raise UsageError(
            f"{name} cannot be fetched from {where}: {_first_line(error)}. Check the network and run the command again: "
            "it goes on where it stopped"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


@contextmanager
def _measured(folder: Path, total: int, watch: Watch) -> Iterator[None]:
    """Tell the watch twice a second how many bytes have arrived."""
    finished = threading.Event()

    def measure() -> None:
        while not finished.wait(0.5):
            watch.progress(f"downloading {size(total)}", min(_bytes_in(folder), total), total)

    thread = threading.Thread(target=measure, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


def _bytes_in(folder: Path) -> int:
    """Bytes of the files in a folder that may change while it is looked at."""
    found = 0
    for file in folder.rglob("*"):
        try:
            found += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:
            continue
    return found
