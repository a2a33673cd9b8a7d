"""The batch that is being decoded: one row for each reply, one token for each row in a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from meteor_agents.backends.local.decoding.growing_cache import empty_cache, packed_cache
from meteor_agents.backends.local.decoding.loaded_model import LoadedModel, next_logits
from meteor_agents.backends.local.decoding.request import Request
from meteor_agents.backends.local.decoding.sampling import choose_tokens


@dataclass(slots=True)
class Rows:
    """Replies that are decoded together. Rows are right-aligned: the newest token is always in the last column."""

    requests: list[Request]
    cache: Any
    mask: torch.Tensor
    """The attention mask: (rows, columns of the cache)."""
    tokens: torch.Tensor
    """The tokens decoded last, which the cache does not hold yet: (rows,)."""

    @classmethod
    def none(cls) -> Rows:
        """No rows at all."""
        return cls([], None, torch.zeros(0, 0, dtype=torch.long), torch.zeros(0, dtype=torch.long))

    @classmethod
    def prefilled(cls, loaded: LoadedModel, requests: list[Request]) -> Rows:
        """Run the prompts of `requests` through the model and choose the first token of each reply."""
        for request in requests:
            request.restart()
        ids, mask = padded_prompts(loaded, requests)
        logits, cache = next_logits(loaded.module, ids, mask, (mask.cumsum(-1) - 1).clamp(min=0), empty_cache())
        return cls(requests, cache, mask, choose_tokens(logits, requests))

    @classmethod
    def packed(cls, parts: Sequence[Rows]) -> Rows:
        """The unfinished rows of all parts, in as few columns as the longest of them needs."""
        kept = [(part, live) for part in parts if (live := part.live())]
        if not kept:
            return cls.none()
        width = max(int(part.mask[live].sum(-1).max()) for part, live in kept)
        return cls(
            requests=[part.requests[row] for part, live in kept for row in live],
            cache=packed_cache([(part.cache, live) for part, live in kept], width),
            mask=torch.cat([_right_aligned(part.mask[live][:, -width:], width) for part, live in kept]),
            tokens=torch.cat([part.tokens[live] for part, live in kept]),
        )

    def live(self) -> list[int]:
        """The numbers of the rows that have not ended."""
        return [row for row, request in enumerate(self.requests) if not request.finished]

    def step(self, loaded: LoadedModel) -> None:
        """Put the last tokens into the cache and choose the next one of every row."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.requests), 1)], dim=1)
        positions = self.mask.sum(-1, keepdim=True) - 1
        logits, _ = next_logits(loaded.module, self.tokens[:, None], self.mask, positions, self.cache)
        self.tokens = choose_tokens(logits, self.requests)


def padded_prompts(loaded: LoadedModel, requests: Sequence[Request]) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts padded on the left and their attention mask, both (rows, longest prompt), on the model's device."""
    width = max(len(request.prompt) for request in requests)
    ids = torch.full((len(requests), width), loaded.pad)
    mask = torch.zeros_like(ids)
    for row, request in enumerate(requests):
        ids[row, width - len(request.prompt) :] = torch.tensor(request.prompt)
        mask[row, width - len(request.prompt) :] = 1
    return ids.to(loaded.module.device), mask.to(loaded.module.device)


def _right_aligned(mask: torch.Tensor, width: int) -> torch.Tensor:
    return torch.nn.functional.pad(mask, (width - mask.shape[1], 0))
