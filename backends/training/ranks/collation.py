"""From the sequences of one micro-batch to its tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from meteor_agents.backends.local.chat_template import IGNORED, EncodedExample

LENGTH_STEP, LOGITS_STEP = 16, 64
"""Sizes are rounded up to these: each new size of a matrix costs a compilation, and scatters what stays in memory."""


class Tensors(NamedTuple):
    ids: Tensor
    attention_mask: Tensor | None
    """[rows, length]; None where rows are packed, and `positions` say where a sequence ends."""
    positions: Tensor | None
    """[rows, length]; None: counted from each row's start."""
    wanted: Tensor
    """[n] indices into rows x length: the positions that predict a supervised token, then some that predict nothing."""
    labels: Tensor
    """[n] the tokens to predict there; IGNORED where nothing is."""


def collate(sequences: list[EncodedExample], device: torch.device) -> Tensors:
    """A row each, padded on the right; no padding is attended to or predicted."""
    length = _round_up(max(len(sequence.ids) for sequence in sequences), LENGTH_STEP)
    mask = [[1] * len(sequence.ids) + [0] * (length - len(sequence.ids)) for sequence in sequences]
    return _tensors([[sequence] for sequence in sequences], length, torch.tensor(mask), None, device)


def collate_packed(sequences: list[EncodedExample], most: int, device: torch.device) -> Tensors:
    """Several in a row of at most `most` tokens, or of the longest one; none attends to another.

    Positions begin at 0 with each sequence, and with the padding at the end: transformers reads from that which tokens
    belong together.
    """
    rows = pack(sequences, most)
    length = _round_up(max(sum(len(sequence.ids) for sequence in row) for row in rows), LENGTH_STEP)
    positions = []
    for row in rows:
        within = [at for sequence in row for at in range(len(sequence.ids))]
        positions.append(within + list(range(length - len(within))))
    return _tensors(rows, length, None, torch.tensor(positions), device)


def pack(sequences: list[EncodedExample], most: int) -> list[list[EncodedExample]]:
    """Rows of nearly the same length, as few as go: the longest sequence first, each into the shortest row."""
    by_length = sorted(sequences, key=lambda sequence: -len(sequence.ids))
    most = max(most, len(by_length[0].ids))
    count = -(-sum(len(sequence.ids) for sequence in sequences) // most)
    while (rows := _in_rows(by_length, count, most)) is None:
        count += 1
    return rows


def _in_rows(by_length: list[EncodedExample], count: int, most: int) -> list[list[EncodedExample]] | None:
    """None: one of so many rows would be too long."""
    rows: list[list[EncodedExample]] = [[] for _ in range(count)]
    lengths = [0] * count
    for sequence in by_length:
        shortest = lengths.index(min(lengths))
        rows[shortest].append(sequence)
        lengths[shortest] += len(sequence.ids)
    return rows if max(lengths) <= most else None


def _tensors(
    rows: list[list[EncodedExample]],
    length: int,
    mask: Tensor | None,
    positions: Tensor | None,
    device: torch.device,
) -> Tensors:
    ids = torch.tensor([_filled([token for sequence in row for token in sequence.ids], 0, length) for row in rows])
    shifted = torch.tensor(
        [
            _filled([label for sequence in row for label in (*sequence.labels[1:], IGNORED)], IGNORED, length)
            for row in rows
        ]
    ).flatten()
    supervised = (shifted != IGNORED).nonzero().flatten()
    spare = (shifted == IGNORED).nonzero().flatten()[: _round_up(len(supervised), LOGITS_STEP) - len(supervised)]
    wanted = torch.cat([supervised, spare])
    return Tensors(
        ids=ids.to(device),
        attention_mask=None if mask is None else mask.to(device),
        positions=None if positions is None else positions.to(device),
        wanted=wanted.to(device),
        labels=shifted[wanted].to(device),
    )


def _filled(values: list[int], filling: int, length: int) -> list[int]:
    return values + [filling] * (length - len(values))


def _round_up(size: int, step: int) -> int:
    return -(-size // step) * step
