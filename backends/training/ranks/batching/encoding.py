"""From a job's rows to token sequences: which tokens are learned, and which rows are too long."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from meteor_agents.backends.local.chat_template import (
    IGNORED,
    EncodedExample,
    conversation_ids,
    end_of_turn_id,
    example_ids,
)
from meteor_agents.errors import NothingToTrainError, TrainingError
from meteor_agents.training import ChatExample, DistilledReply, Example, PreferencePair, TrainingRow

_TOKENIZER_FILES = (
    "tokenizer*",
    "*.jinja",
    "*.model",
    "*.tiktoken",
    "vocab*",
    "merges.txt",
    "special_tokens*",
    "added_tokens*",
)
"""What decides how a folder's model encodes text."""


class Tokenizers:
    """Keeps the last tokenizer loaded from job to job: checkpoints come and go, their tokenizer files stay the same."""

    def __init__(self) -> None:
        self._kept: tuple[str, Any] = ("", None)

    def of(self, folder: Path) -> Any:
        """The transformers tokenizer of a checkpoint folder. It is loaded again only when the files' content differs."""
        content = hashlib.sha256()
        for file in sorted({file for pattern in _TOKENIZER_FILES for file in folder.glob(pattern)}):
            content.update(file.name.encode() + b"\0" + file.read_bytes())
        key = content.hexdigest()
        if key != self._kept[0]:
            from transformers import AutoTokenizer

            self._kept = (key, AutoTokenizer.from_pretrained(folder))
        return self._kept[1]


RowKind = Literal["supervised", "pair", "distilled"]
"""What a row is learned by: the supervised loss, a pairwise loss, or self-distillation."""


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """One row as token sequences: one for an example or chat; two for a pair (chosen, rejected) and for a distilled reply
    (after the prompt, after the informed prompt)."""

    id: str
    sequences: tuple[EncodedExample, ...]
    kind: RowKind = "supervised"
    reference: tuple[float, ...] = ()
    """For pairs whose loss has a reference: each sequence's log-probability under the weights that training starts from."""

    @property
    def length(self) -> int:
        """Tokens of the longest sequence."""
        return max(len(sequence.ids) for sequence in self.sequences)

    @property
    def tokens(self) -> int:
        """Tokens of all sequences, prompts included."""
        return sum(len(sequence.ids) for sequence in self.sequences)

    @property
    def supervised(self) -> int:
        """Tokens that have a loss."""
        return sum(label != IGNORED for sequence in self.sequences for label in sequence.labels)


class Encoding(NamedTuple):
    """A job's rows as the model sees them."""

    rows: list[EncodedRow]
    too_long: int
    """How many rows were left out."""


def encode_rows(tokenizer: Any, rows: Sequence[TrainingRow], max_length: int) -> Encoding:
    """Encode the rows and keep those of at most `max_length` tokens.

    Raises `NothingToTrainError` when no row is left, `TrainingError` when one would teach nothing or no end of turn.
    """
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
    """Encode one row, however long it is, through the tokenizer's chat template."""
    match row:
        case Example():
            return EncodedRow(row.id, (example_ids(tokenizer, row.prompt, row.target),))
        case ChatExample():
            return EncodedRow(row.id, (conversation_ids(tokenizer, row.messages),))
        case PreferencePair():
            sides = tuple(example_ids(tokenizer, row.prompt, reply) for reply in (row.chosen, row.rejected))
            return EncodedRow(row.id, sides, "pair")
        case DistilledReply():
            both = tuple(example_ids(tokenizer, prompt, row.reply) for prompt in (row.prompt, row.informed))
            return EncodedRow(row.id, both, "distilled")


def check_supervision(row: EncodedRow, end_of_turn: int) -> None:
    """Raise `TrainingError` unless every sequence of the row teaches a reply and the token that ends it."""
    for sequence in row.sequences:
        if all(label == IGNORED for label in sequence.labels):
            raise TrainingError(f"row {row.id}: no token is supervised, so there is nothing to learn from it")
        if sequence.labels[-1] != end_of_turn:
            raise TrainingError(f"row {row.id}: the end-of-turn token is not supervised, so the model would not stop")
