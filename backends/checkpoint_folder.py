"""A checkpoint as a Hugging Face folder: what makes it complete, and how a trained one is written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_OWN_FILES = (".json", ".jinja", ".model", ".tiktoken", ".txt")


def missing_parts(folder: Path) -> list[str]:
    """What a complete checkpoint still lacks; empty when it can be served."""
    wanted = {
        "config.json": ["config.json"],
        "generation_config.json": ["generation_config.json"],
        "weights (*.safetensors)": ["*.safetensors"],
        "a tokenizer": ["tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json"],
    }
    return [part for part, patterns in wanted.items() if not any(_written(folder, pattern) for pattern in patterns)]


def _written(folder: Path, pattern: str) -> bool:
    return any(file.stat().st_size > 0 for file in folder.glob(pattern))


def write_trained(start: Path, change: Callable[[str, Tensor], Tensor | None], folder: Path) -> None:
    """The model of `start`, in its own number format, with `change(name, parameter)` added to each of its parameters.

    Changes are float32, or None for a parameter that stays. The sum is taken in float32 and rounded once. Tokenizer,
    chat template and generation config are `start`'s files, byte for byte, so that prompts stay the same.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(start, dtype="auto", use_safetensors=True, local_files_only=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            added = change(name, parameter)
            if added is not None:
                parameter.copy_(parameter.float() + added)
    model.save_pretrained(folder, safe_serialization=True)
    for file in start.iterdir():
        if file.suffix in _OWN_FILES and file.name != "config.json" and not file.name.endswith(".index.json"):
            shutil.copyfile(file, folder / file.name)


def publish(written: Path, folder: Path) -> None:
    """Give a complete folder its name, in one step that a power cut cannot halve."""
    for file in written.iterdir():
        _flush(file)
    _flush(written)
    written.rename(folder)
    _flush(folder.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_float32(folder: Path) -> bool:
    """Whether all weights are stored in float32, by the headers of the safetensors files."""
    return all(
        entry["dtype"] == "F32"
        for file in folder.glob("*.safetensors")
        for name, entry in _header(file).items()
        if name != "__metadata__"
    )


def _header(file: Path) -> dict[str, Any]:
    with file.open("rb") as content:
        header: dict[str, Any] = json.loads(content.read(int.from_bytes(content.read(8), "little")))
        return header


def damaged_weights(folder: Path) -> str | None:
    """What is wrong with the folder's safetensors files, by their headers and lengths; None when nothing is."""
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        with file.open("rb") as content:
            length = int.from_bytes(content.read(8), "little")
            if length + 8 > size:
                return f"{file.name} is damaged: its header is cut off"
            try:
                tensors = [entry for name, entry in json.loads(content.read(length)).items() if name != "__metadata__"]
                end = max((entry["data_offsets"][1] for entry in tensors), default=0)
            except (ValueError, LookupError, TypeError, AttributeError):
                return f"{file.name} is damaged: its header cannot be read"
        if 8 + length + end != size:
            return f"{file.name} is damaged: it has {size} bytes instead of {8 + length + end}"
    return None
