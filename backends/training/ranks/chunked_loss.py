"""A sum over positions, a piece of the logits at a time: a float32 copy of all of them would be big."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 1 << 25
"""Logits of one piece, or of one position: 128 MiB in float32, some three times over."""


def summed_in_chunks(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor) -> Tensor:
    """`loss(logits [n, vocabulary], labels [n])`, for one whose pieces add up; each is computed again for its gradient."""
    size = max(1, CHUNK // logits.shape[-1])
    if len(labels) <= size:
        return loss(logits, labels)
    total = logits.new_zeros((), dtype=torch.float32)
    for begin in range(0, len(labels), size):
        piece = slice(begin, begin + size)
        total = total + checkpoint(loss, logits[piece], labels[piece], use_reentrant=False)
    return total
