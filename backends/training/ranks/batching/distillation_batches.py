"""Self-distillation of a batch: what the student predicts when it is informed, and how far it is from that when it is not.

The teacher is the student itself with its present weights, so no second model is held in memory. Its predictions get no
gradient. They are made anew for each micro-batch, because a whole batch's, one number for each token of the vocabulary,
would be big.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from meteor_agents.backends.local.chat_template import IGNORED, EncodedExample
from meteor_agents.backends.training.ranks.batching.batches import Mixture, collate
from meteor_agents.backends.training.ranks.batching.encoding import EncodedRow
from meteor_agents.backends.training.ranks.batching.losses import distillation_loss, sft_loss, summed_in_chunks
from meteor_agents.backends.training.ranks.model import frozen
from meteor_agents.training import SelfDistillation

ASKED, INFORMED = 0, 1
"""Indices into a row's sequences: the reply after the prompt, and after the informed prompt."""


def informed_logits(
    engine: Any, rows: Sequence[EncodedRow], batch: Sequence[EncodedRow], device: torch.device
) -> Tensor | None:
    """The logits [n, vocabulary] at the reply tokens of these rows' distilled replies, after the informed prompts.

    None when the rows have no distilled reply. If any other row of the batch has one, a pass is made all the same:
    under ZeRO-3 the ranks that have some would wait for it.
    """
    wanted = _distilled(batch)
    if not wanted:
        return None
    own = _distilled(rows)
    sequences = [row.sequences[INFORMED] for row in own or wanted[:1]]
    tensors = collate(sequences, device)
    with frozen(engine):
        logits: Tensor = engine(tensors.ids, tensors.attention_mask, tensors.wanted)
    return logits[: sum(map(_reply_tokens, sequences))] if own else None


def distilled_loss(
    engine: Any,
    rows: Sequence[EncodedRow],
    informed: Tensor | None,
    loss: SelfDistillation,
    of: Mixture,
    device: torch.device,
) -> Tensor:
    """The loss of these distilled replies and supervised rows, as their part of the batch `of`. One forward pass.

    A distilled reply's loss is the mean divergence over its tokens. Both kinds weigh as much as their share of the batch's
    rows. `informed` is what `informed_logits` returned.
    """
    replies = [row.sequences[ASKED] for row in _distilled(rows)]
    examples = [row.sequences[0] for row in rows if row.kind == "supervised"]
    tensors = collate([*replies, *examples], device)
    logits = engine(tensors.ids, tensors.attention_mask, tensors.wanted)  # supervised tokens in the sequences' order
    lengths = torch.tensor([_reply_tokens(reply) for reply in replies], dtype=torch.long, device=device)
    tokens = 0 if informed is None else len(informed)
    total = torch.zeros((), device=device)
    if informed is not None:
        weights = torch.repeat_interleave(1 / (lengths * of.rows), lengths)
        divergence = partial(distillation_loss, divergence=loss.divergence)
        total = total + summed_in_chunks(divergence, logits[:tokens], informed, weights)
    if examples:
        supervised = partial(sft_loss, total=of.supervised)
        total = total + summed_in_chunks(supervised, logits[tokens:], tensors.labels[tokens:])
    return total


def _distilled(rows: Sequence[EncodedRow]) -> list[EncodedRow]:
    return [row for row in rows if row.kind == "distilled"]


def _reply_tokens(sequence: EncodedExample) -> int:
    """The reply's tokens, the one that ends the turn included."""
    return sum(label != IGNORED for label in sequence.labels)
