"""From logits to the next token of every row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from meteor_agents.backends.local.decoding.request import Request

LOWEST_TEMPERATURE = 1e-4
"""Lower temperatures above 0 are raised to this, where the softmax does not overflow."""


def choose_tokens(logits: torch.Tensor, requests: Sequence[Request]) -> torch.Tensor:
    """The next token of every row, by its own sampling parameters and random numbers: (rows, vocabulary) -> (rows,)."""
    tokens = logits.argmax(-1)
    sampled = [row for row, request in enumerate(requests) if request.sampling.temperature > 0 and not request.finished]
    if sampled:
        rows = [requests[row] for row in sampled]
        temperature = logits.new_tensor([[max(row.sampling.temperature, LOWEST_TEMPERATURE)] for row in rows])
        probabilities = torch.softmax(logits[sampled] / temperature, dim=-1)
        top_p = [row.sampling.top_p for row in rows]
        tokens[sampled] = sample_nucleus(probabilities, top_p, [row.numbers.random for row in rows])
    return tokens


def sample_nucleus(
    probabilities: torch.Tensor, top_p: Sequence[float], draw: Sequence[Callable[[], float]]
) -> torch.Tensor:
    """One token for each row from its nucleus: (rows, vocabulary) -> (rows,).

    The nucleus is the smallest set of likeliest tokens that together hold `top_p` (Holtzman et al., arXiv 1904.09751).
    Tokens are drawn by rejection, which avoids sorting the vocabulary: a drawn token belongs to the nucleus if all
    likelier ones together hold less than `top_p`. If it does not, it and all less likely ones are ruled out, and the row
    draws again. What is left always contains the whole nucleus, so accepted tokens have exactly its distribution.
    """
    tokens = torch.zeros(len(probabilities), dtype=torch.long, device=probabilities.device)
    bound = probabilities.new_tensor(top_p)
    open_rows = list(range(len(probabilities)))
    ruled_out = probabilities.new_zeros(len(probabilities), 1)
    while open_rows:
        rows = probabilities[open_rows]
        cumulative = rows.where(rows > ruled_out[open_rows], 0).cumsum(-1, dtype=torch.float64)
        numbers = cumulative.new_tensor([[draw[row]()] for row in open_rows])
        drawn = torch.searchsorted(cumulative, numbers * cumulative[:, -1:], right=True)
        drawn = drawn.clamp(max=rows.shape[-1] - 1)
        chance = rows.gather(-1, drawn)
        outside = (rows.where(rows > chance, 0).sum(-1) >= bound[open_rows]).tolist()
        tokens[open_rows] = drawn[:, 0]
        ruled_out[open_rows] = chance
        open_rows = [row for row, again in zip(open_rows, outside, strict=True) if again]
    return tokens
