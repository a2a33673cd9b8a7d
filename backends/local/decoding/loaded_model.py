"""A model in memory, with what decoding has to know about it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from meteor_agents.thoughts import split_thoughts


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
    thought_marks: Mapping[int, str] = field(default_factory=dict)
    """Special tokens that open or close a thought, and how they are written."""

    def text(self, ids: Sequence[int]) -> str:
        """The text of these tokens, without the tokenizer's special ones except those that mark thoughts."""
        pieces: list[str] = []
        begin = 0
        for position, token in enumerate(ids):
            if token in self.thought_marks:
                pieces += [self._plain(ids[begin:position]), self.thought_marks[token]]
                begin = position + 1
        return "".join([*pieces, self._plain(ids[begin:])])

    def _plain(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


def thought_marks(tokenizer: Any) -> dict[int, str]:
    """The special tokens of a tokenizer that open or close a thought, or that name harmony's channels."""
    special = {id_: str(token) for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    harmony = _HARMONY if "<|channel|>" in special.values() else ()
    return {id_: mark for id_, mark in special.items() if mark in harmony or _marks_a_thought(mark)}


_HARMONY = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>")


def _marks_a_thought(mark: str) -> bool:
    return split_thoughts(f"{mark}x") == ("x", "") or split_thoughts(f"x{mark}y") == ("x", "y")


def next_logits(
    module: Any, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, keys_and_values: Any
) -> tuple[torch.Tensor, Any]:
    """The logits of the token after the last column, and the cache that now holds `ids`.

    `ids` and `positions` are (rows, new columns), `mask` is (rows, all columns so far). The logits are
    (rows, vocabulary), in float32. With `keys_and_values` None, the model makes one of its own kind.
    """
    kind: Any = type(module)
    name = _cache_argument(kind)
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
def _cache_argument(kind: Any) -> str:
    """The name of the cache among the arguments of this class of models, and in what it returns.

    transformers 5 renamed `past_key_values` to `cache` in most classes, and warns about the old name there.
    """
    return "cache" if "cache" in inspect.signature(kind.forward).parameters else "past_key_values"
