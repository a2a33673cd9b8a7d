"""What a model folder's files say of themselves: complete or not, damaged or not, and how many parameters they hold."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_UNREADABLE = (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, MemoryError, OverflowError)


def parameters(folder: Path) -> int | None:
    """The number of parameters in the safetensors files of a model folder, by their headers; None if one is unreadable."""
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
    """What is wrong with the safetensors files of a folder, by their headers and lengths; None when they are sound."""
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
    return None


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
    """Bytes before the first tensor: the length of the header, which the first eight give, and these eight."""
    with file.open("rb") as content:
        length = 8 + int.from_bytes(content.read(8), "little")
    if length > file.stat().st_size:
        raise EOFError(file)
    return length
