"""From encoded rows to batches: the order of an epoch, each rank's share of a batch, and the tensors of a micro-batch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, cos, pi
from typing import NamedTuple

import torch
from torch import Tensor

from meteor_agents.backends.local.chat_template import IGNORED, EncodedExample
from meteor_agents.backends.training.ranks.batching.encoding import EncodedRow
from meteor_agents.training import TrainingSettings

WINDOW_BATCHES = 8
"""Rows are sorted by length within shuffled windows of this many batches: little padding, and a new order each epoch."""
LENGTH_STEP = 16
"""Lengths of rows are rounded up to a multiple of this: each new matrix size costs a compilation and fragments memory."""
LOGITS_STEP = 64
"""The same for the number of positions whose logits are computed."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How every batch is split: each of `ranks` makes `accumulation` forward passes of at most `micro_batch_size` rows."""

    batch_size: int
    """Rows of an optimizer step, over all ranks."""
    micro_batch_size: int
    accumulation: int
    ranks: int
    steps_per_epoch: int

    @classmethod
    def of(cls, rows: int, settings: TrainingSettings, ranks: int) -> BatchPlan:
        """The plan for `rows` rows, with batches as even as possible. A batch never has more rows than there are."""
        batch = min(settings.batch_size, rows)
        accumulation = ceil(batch / (settings.micro_batch_size * ranks))
        return cls(
            batch_size=batch,
            micro_batch_size=ceil(batch / (accumulation * ranks)),
            accumulation=accumulation,
            ranks=ranks,
            steps_per_epoch=ceil(rows / batch),
        )

    def epoch(self, rows: Sequence[EncodedRow], seed: str) -> Iterator[list[EncodedRow]]:
        """Every row once, in shuffled batches of rows of similar length; a remainder makes a smaller batch."""
        shuffled = random.Random(seed)
        order = list(rows)
        shuffled.shuffle(order)
        window = self.batch_size * WINDOW_BATCHES
        batches = [
            batch
            for start in range(0, len(order), window)
            for batch in self._batches(sorted(order[start : start + window], key=lambda row: row.length))
        ]
        shuffled.shuffle(batches)
        return iter(batches)

    def _batches(self, rows: list[EncodedRow]) -> Iterator[list[EncodedRow]]:
        for start in range(0, len(rows), self.batch_size):
            yield rows[start : start + self.batch_size]

    def share(self, batch: Sequence[EncodedRow], rank: int) -> list[list[EncodedRow]]:
        """The `accumulation` micro-batches of one rank, counted from 0. Some are empty when the batch is small."""
        cells = self.accumulation * self.ranks
        cuts = [len(batch) * cell // cells for cell in range(cells + 1)]
        return [list(batch[cuts[cell] : cuts[cell + 1]]) for cell in range(cells) if cell % self.ranks == rank]


class Mixture(NamedTuple):
    """What a whole batch holds, over all ranks. Every kind of row has a share in the loss as large as in the rows."""

    rows: int
    pairs: int
    supervised: float
    """What the negative log-likelihoods of supervised tokens are divided by: their number, divided by the share of
    supervised rows. 1 when there are none."""

    @classmethod
    def of(cls, batch: Sequence[EncodedRow]) -> Mixture:
        """The mixture of these rows."""
        supervised = [row for row in batch if row.kind == "supervised"]
        tokens = sum(row.supervised for row in supervised)
        return cls(
            rows=len(batch),
            pairs=sum(row.kind == "pair" for row in batch),
            supervised=tokens * len(batch) / len(supervised) if supervised else 1.0,
        )


def learning_rate(step: int, steps: int, settings: TrainingSettings) -> float:
    """The learning rate of step `step` of `steps`, counted from 0: a linear warm-up, then the schedule.

    It is above 0 at every step, the first and the last included.
    """
    warmup = ceil(settings.warmup_ratio * steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    factor = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + cos(pi * done))}[settings.schedule]
    return settings.learning_rate * factor


class Tensors(NamedTuple):
    """One micro-batch on the device."""

    ids: Tensor
    """[rows, length] token ids; padding is 0."""
    attention_mask: Tensor | None
    """[rows, length], 1 on tokens and 0 on padding. None when rows are packed: `positions` then say where sequences end."""
    positions: Tensor | None
    """[rows, length], counted from 0 within each sequence. None: counted from the start of each row."""
    wanted: Tensor
    """[n] indices into rows x length: the positions whose next token is supervised, then fillers up to a multiple of
    `LOGITS_STEP`."""
    labels: Tensor
    """[n] the tokens to predict there; IGNORED for fillers."""


def collate(sequences: list[EncodedExample], device: torch.device) -> Tensors:
    """One sequence a row, padded on the right. Padding is neither attended to nor predicted."""
    length = _round_up(max(len(sequence.ids) for sequence in sequences), LENGTH_STEP)
    mask = [[1] * len(sequence.ids) + [0] * (length - len(sequence.ids)) for sequence in sequences]
    return _tensors([[sequence] for sequence in sequences], length, torch.tensor(mask), None, device)


def collate_packed(sequences: list[EncodedExample], most: int, device: torch.device) -> Tensors:
    """Several sequences a row, in rows of at most `most` tokens or as long as the longest sequence.

    Sequences do not attend to one another: positions begin at 0 with each sequence and with the padding at the end, and
    transformers reads from that which tokens belong together.
    """
    rows = pack(sequences, most)
    length = _round_up(max(sum(len(sequence.ids) for sequence in row) for row in rows), LENGTH_STEP)
    positions = []
    for row in rows:
        within = [at for sequence in row for at in range(len(sequence.ids))]
        positions.append(within + list(range(length - len(within))))
    return _tensors(rows, length, None, torch.tensor(positions), device)


def pack(sequences: list[EncodedExample], most: int) -> list[list[EncodedExample]]:
    """Distribute sequences over as few rows as possible, of nearly the same length.

    The longest sequence goes first, each into the shortest row. A row has at most `most` tokens, or those of the longest
    sequence.
    """
    by_length = sorted(sequences, key=lambda sequence: -len(sequence.ids))
    most = max(most, len(by_length[0].ids))
    count = -(-sum(len(sequence.ids) for sequence in sequences) // most)
    while (rows := _in_rows(by_length, count, most)) is None:
        count += 1
    return rows


def _in_rows(by_length: list[EncodedExample], count: int, most: int) -> list[list[EncodedExample]] | None:
    """`count` rows; None when one of them would be longer than `most` tokens."""
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
