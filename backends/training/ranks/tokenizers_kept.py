"""Tokenizers that stay loaded from job to job, while checkpoints come and go with the same tokenizer files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

_DECIDING = (
    "tokenizer*",
    "*.jinja",
    "*.model",
    "*.tiktoken",
    "vocab*",
    "merges.txt",
    "special_tokens*",
    "added_tokens*",
)


class Tokenizers:
    """The last tokenizer, by the content of its files."""

    def __init__(self) -> None:
        self._kept: tuple[str, Any] = ("", None)

    def of(self, folder: Path) -> Any:
        content = hashlib.sha256()
        for file in sorted({file for pattern in _DECIDING for file in folder.glob(pattern)}):
            content.update(file.name.encode() + b"\0" + file.read_bytes())
        key = content.hexdigest()
        if key != self._kept[0]:
            self._kept = (key, AutoTokenizer.from_pretrained(folder))
        return self._kept[1]
