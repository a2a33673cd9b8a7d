"""Deterministic beam search, by the library's own `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers

from meteor_agents.backends.local.decoding.contrastive_decoding import Contrasts
from meteor_agents.backends.local.decoding.loaded_model import LoadedModel
from meteor_agents.backends.local.decoding.request import Request
from meteor_agents.backends.local.decoding.rows import padded_prompts


def search_beams(loaded: LoadedModel, requests: Sequence[Request], contrasts: Contrasts) -> None:
    """Write the best beam of each request into its `output`, up to its end token or its limit.

    The requests must be ones that run together (`Request.runs_with`). A search with one beam is greedy, which is how
    contrastive decoding runs. Ends early once none of the replies is wanted any more.
    """
    ids, mask = padded_prompts(loaded, requests)
    sampling = requests[0].sampling

    def abandoned(decoded: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.full((len(decoded),), all(request.abandoned for request in requests), device=decoded.device)

    replies = loaded.module.generate(
        input_ids=ids,
        attention_mask=mask,
        num_beams=sampling.beams,
        do_sample=False,
        max_new_tokens=max(request.limit for request in requests),
        logits_processor=contrasts.processors(sampling.contrast, loaded.module, mask),
        stopping_criteria=transformers.StoppingCriteriaList([abandoned]),
    )
    for request, reply in zip(requests, replies[:, ids.shape[1] :].tolist(), strict=True):
        request.output = _until_end(reply, loaded.ends)[: request.limit]


def _until_end(ids: list[int], ends: frozenset[int]) -> list[int]:
    for position, token in enumerate(ids):
        if token in ends:
            return ids[: position + 1]
    return ids
