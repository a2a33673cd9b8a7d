"""A model in memory, with what decoding has to know about it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch


@dataclass(slots=True, frozen=True)
class LoadedModel:
    """A causal language model of transformers, its tokenizer, and the tokens that matter to decoding."""

    module: Any
    tokenizer: Any
    ends: frozenset[int]
    """Tokens that end a reply."""
    pad: int
    context: int
    """Tokens of prompt and reply together that the model was made for."""
    folder: Path | None
    """Where the weights were read from; None for a name on the hub, and for weights that were quantised on the way."""

    def text(self, ids: list[int]) -> str:
        """The text of these tokens, without the tokenizer's special ones."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


def next_logits(
    module: Any, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, keys_and_values: Any
) -> tuple[torch.Tensor, Any]:
    """The logits of the token after the last column, and the cache that now holds `ids`.

    `ids` and `positions` are (rows, new columns), `mask` is (rows, all columns so far). The logits are
    (rows, vocabulary), in float32. With `keys_and_values` None, the model makes one of its own kind.
    """
    name = _cache_argument(type(module))
    output = module(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        use_cache=True,
        logits_to_keep=1,
        **{name: keys_and_values},
    )
    return output.logits[:, -1].float(), output[name]


@cache
def _cache_argument(kind: type) -> str:
    """transformers renamed `past_key_values` to `cache` in some version of 5, and warns about the old name since."""
    return "cache" if "cache" in inspect.signature(kind.forward).parameters else "past_key_values"  # type: ignore[attr-defined]  # a torch module
