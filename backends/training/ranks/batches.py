"""From a job's rows to batches: encoding, the length limit, the order of an epoch, and how a batch is shared out."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, cos, pi
from typing import Any, NamedTuple

from meteor_agents.backends.local.chat_template import (
    IGNORED,
    EncodedExample,
    conversation_ids,
    end_of_turn_id,
    example_ids,
)
from meteor_agents.errors import NothingToTrainError, TrainingError
from meteor_agents.training import ChatExample, PreferencePair, TrainingRow, TrainingSettings

WINDOW_BATCHES = 8
"""Rows are sorted by length inside shuffled windows of so many batches: little padding, yet a new order each epoch."""


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """One example as one sequence, or one pair as two: chosen, rejected."""

    id: str
    sequences: tuple[EncodedExample, ...]
    reference: tuple[float, ...] = ()
    """Of a pair whose loss has a reference: each sequence's log-probability under the weights that training starts from."""

    @property
    def length(self) -> int:
        """Tokens of the longest sequence."""
        return max(len(sequence.ids) for sequence in self.sequences)

    @property
    def tokens(self) -> int:
        return sum(len(sequence.ids) for sequence in self.sequences)

    @property
    def supervised(self) -> int:
        return sum(label != IGNORED for sequence in self.sequences for label in sequence.labels)


class Encoding(NamedTuple):
    rows: list[EncodedRow]
    too_long: int


def encode_rows(tokenizer: Any, rows: Sequence[TrainingRow], max_length: int) -> Encoding:
    """Every row that fits into `max_length` tokens. Raises `NothingToTrainError` if none does."""
    encoded = [encode_row(tokenizer, row) for row in rows]
    fitting = [row for row in encoded if row.length <= max_length]
    if not fitting:
        why = f"all {len(encoded)} are longer than max_length {max_length} tokens" if encoded else "the job has none"
        raise NothingToTrainError(f"no rows to train on: {why}")
    end_of_turn = end_of_turn_id(tokenizer)
    for row in fitting:
        check_supervision(row, end_of_turn)
    return Encoding(fitting, len(encoded) - len(fitting))


def encode_row(tokenizer: Any, row: TrainingRow) -> EncodedRow:
    if isinstance(row, ChatExample):
        return EncodedRow(row.id, (conversation_ids(tokenizer, row.messages),))
    targets = (row.chosen, row.rejected) if isinstance(row, PreferencePair) else (row.target,)
    return EncodedRow(row.id, tuple(example_ids(tokenizer, row.prompt, target) for target in targets))


def check_supervision(row: EncodedRow, end_of_turn: int) -> None:
    """A row teaches a reply and where it ends, or it is refused."""
    for sequence in row.sequences:
        if all(label == IGNORED for label in sequence.labels):
            raise TrainingError(f"row {row.id}: no token is supervised, so there is nothing to learn from it")
        if sequence.labels[-1] != end_of_turn:
            raise TrainingError(f"row {row.id}: the end-of-turn token is not supervised, so the model would not stop")


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How every batch is cut: `accumulation` forward passes on each of `ranks`, of at most `micro_batch_size` rows."""

    batch_size: int
    micro_batch_size: int
    accumulation: int
    ranks: int
    steps_per_epoch: int

    @classmethod
    def of(cls, rows: int, settings: TrainingSettings, ranks: int) -> BatchPlan:
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
        """Each row once, in batches of rows of similar length; the remainder is a smaller batch of its own."""
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
        """The micro-batches of one rank, `accumulation` of them; some are empty where the batch is small."""
        cells = self.accumulation * self.ranks
        cuts = [len(batch) * cell // cells for cell in range(cells + 1)]
        return [list(batch[cuts[cell] : cuts[cell + 1]]) for cell in range(cells) if cell % self.ranks == rank]


def learning_rate(step: int, steps: int, settings: TrainingSettings) -> float:
    """Of optimizer step `step`, counted from 0: a warm-up, then the schedule; every step learns, first and last too."""
    warmup = ceil(settings.warmup_ratio * steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    factor = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + cos(pi * done))}[settings.schedule]
    return settings.learning_rate * factor
