"""The log-likelihood of given replies, by one forward pass; nothing is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from meteor_agents.models import Likelihood


def score_replies(
    model: Any, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]], pad: int
) -> list[Likelihood]:
    """For each reply, the sum of the natural log-probabilities of its tokens after its prompt, and their number.

    All are computed in one batch. Rows are padded on the right with `pad`, where causal attention does not look.
    """
    if not prompts:
        return []
    width = max(len(prompt) + len(reply) for prompt, reply in zip(prompts, replies, strict=True))
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros_like(ids)
    for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        length = len(prompt) + len(reply)
        ids[row, :length] = torch.tensor([*prompt, *reply])
        mask[row, :length] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    keep = width - min(len(prompt) for prompt in prompts) + 1
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=keep).logits
    found: list[Likelihood] = []
    for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        first = len(prompt) - 1 - (width - keep)  # the column that predicts the reply's first token
        own = torch.log_softmax(logits[row, first : first + len(reply)].float(), dim=-1)
        target = torch.tensor(reply, device=own.device)[:, None]
        found.append(Likelihood(float(own.gather(-1, target).sum()), len(reply)))
    return found
