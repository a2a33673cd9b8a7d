"""A checkpoint as a Hugging Face folder: what makes it complete, and how a trained one is written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_OWN_FILES = (".json", ".jinja", ".model", ".tiktoken", ".txt")






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






