"""From the sequences of one micro-batch to its tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from meteor_agents.backends.chat_template import IGNORED, EncodedExample

LENGTH_STEP, LOGITS_STEP = 16, 64
"""Sizes are rounded up to these: each new size of a matrix costs a compilation, and scatters what stays in memory."""


class Tensors(NamedTuple):
    ids: Tensor
    attention_mask: Tensor
    wanted: Tensor
    """[n] indices into rows x length: the positions that predict a supervised token, then some that predict nothing."""
    labels: Tensor
    """[n] the tokens to predict there; IGNORED where nothing is."""


def collate(sequences: list[EncodedExample], device: torch.device) -> Tensors:
    """Padded on the right; no padding is attended to or predicted."""
    length = _round_up(max(len(sequence.ids) for sequence in sequences), LENGTH_STEP)
    ids = torch.tensor([sequence.ids + [0] * (length - len(sequence.ids)) for sequence in sequences])
    mask = torch.tensor([[1] * len(sequence.ids) + [0] * (length - len(sequence.ids)) for sequence in sequences])
    shifted = torch.tensor(
        [sequence.labels[1:] + [IGNORED] * (length + 1 - len(sequence.labels)) for sequence in sequences]
    ).flatten()
    supervised = (shifted != IGNORED).nonzero().flatten()
    spare = (shifted == IGNORED).nonzero().flatten()[: _round_up(len(supervised), LOGITS_STEP) - len(supervised)]
    wanted = torch.cat([supervised, spare])
    return Tensors(*(tensor.to(device) for tensor in (ids, mask, wanted, shifted[wanted])))


def _round_up(size: int, step: int) -> int:
    return -(-size // step) * step
