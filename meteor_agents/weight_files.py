"""What the files of a model folder tell without being loaded: complete or not, damaged or changed, how many parameters."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

WRITTEN = "written.json"
"""The record of a folder that a trainer wrote: file name -> its size in bytes and the CRC-32 of its content."""

_UNREADABLE = (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, MemoryError, OverflowError)
_PIECE = 1 << 22


def parameters(folder: Path) -> int | None:
    """The number of parameters in the safetensors files of a folder, by their headers. None if one cannot be read."""
    try:
        total = sum(math.prod(tensor["shape"]) for file in _weights(folder) for tensor in _tensors(file))
    except _UNREADABLE:
        return None
    return total or None


def missing_parts(folder: Path) -> list[str]:
    """The parts that a folder lacks before it can be served, in words; empty when it is complete."""
    wanted = {
        "config.json": ["config.json"],
        "generation_config.json": ["generation_config.json"],
        "weights (*.safetensors)": ["*.safetensors"],
        "a tokenizer": ["tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json"],
    }
    return [part for part, patterns in wanted.items() if not any(_is_written(folder, pattern) for pattern in patterns)]


def is_float32(folder: Path) -> bool:
    """Whether every weight is stored in float32, by the headers of the safetensors files."""
    return all(tensor["dtype"] == "F32" for file in _weights(folder) for tensor in _tensors(file))


def damaged_weights(folder: Path) -> str | None:
    """What is wrong with the weights of a folder, in words; None when they are sound.

    Looks at the headers and lengths of its safetensors files, and at the record that the trainer leaves in a checkpoint.
    """
    for file in _weights(folder):
        size = file.stat().st_size
        try:
            end = _header_length(file) + max((tensor["data_offsets"][1] for tensor in _tensors(file)), default=0)
        except EOFError:
            return f"{file.name} is damaged: its header is cut off"
        except _UNREADABLE:
            return f"{file.name} is damaged: its header cannot be read"
        if end != size:
            return f"{file.name} is damaged: it has {size} bytes instead of {end}"
    return changed_since_written(folder)


def record_written(folder: Path) -> None:
    """Leave a record of all files in a folder that was just written, for `changed_since_written`.

    A CRC-32 reads a gigabyte in about a second, a cryptographic hash takes several. It notices every accident and every
    other training. It is no signature: who can write the folder can write the record too.
    """
    record = {
        file.name: {"bytes": file.stat().st_size, "crc32": f"{_crc32(file):08x}"}
        for file in sorted(folder.iterdir())
        if file.is_file() and file.name != WRITTEN
    }
    (folder / WRITTEN).write_text(json.dumps(record, indent=1), encoding="utf-8")


def changed_since_written(folder: Path) -> str | None:
    """The file of a folder that differs from its record, and how; None when none differs, or when there is no record.

    Files that the record does not name are not looked at.
    """
    path = folder / WRITTEN
    if not path.exists():
        return None
    try:
        record = {str(name): (int(of["bytes"]), str(of["crc32"])) for name, of in json.loads(path.read_text()).items()}
    except _UNREADABLE:
        return f"{WRITTEN}, which says what was written there, cannot be read"
    for name, (size, checksum) in record.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        found = file.stat().st_size
        if found != size:
            return f"{name} has {found} bytes, but {size} were written"
        if f"{_crc32(file):08x}" != checksum:
            return f"{name} has another content than the one that was written"
    return None


def weights_now(folder: Path, before: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The weight files of a folder by name: bytes, time of the last change, CRC-32. Raises `OSError`.

    `before` is an earlier record: a file of the same size and time is not read again.
    """
    found: dict[str, dict[str, Any]] = {}
    for file in _weights(folder):
        stat = file.stat()
        now = {"bytes": stat.st_size, "changed": stat.st_mtime_ns}
        known = before.get(file.name, {})
        same = all(known.get(name) == value for name, value in now.items())
        found[file.name] = {**now, "crc32": known["crc32"] if same else f"{_crc32(file):08x}"}
    return found


def _crc32(file: Path) -> int:
    checksum = 0
    with file.open("rb") as content:
        while piece := content.read(_PIECE):
            checksum = zlib.crc32(piece, checksum)
    return checksum


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _is_written(folder: Path, pattern: str) -> bool:
    return any(file.stat().st_size > 0 for file in folder.glob(pattern))


def _tensors(file: Path) -> Iterator[dict[str, Any]]:
    """The header's entry of each tensor: `dtype`, `shape`, `data_offsets`. Raises `EOFError` where it is cut off."""
    with file.open("rb") as content:
        content.seek(8)
        header: dict[str, dict[str, Any]] = json.loads(content.read(_header_length(file) - 8))
    yield from (entry for name, entry in header.items() if name != "__metadata__")


def _header_length(file: Path) -> int:
    """Bytes before the first tensor: eight that give the length of the header, and the header itself."""
    with file.open("rb") as content:
        length = 8 + int.from_bytes(content.read(8), "little")
    if length > file.stat().st_size:
        raise EOFError(file)
    return length
