"""What a pairwise loss needs from a batch: log-probabilities of replies, now and under the weights training starts from.

A batch may hold supervised rows beside the pairs.

The reference is the model itself before its first step: one pass over the rows without gradient, so no second model is
held in memory. Every rank makes the same number of passes, because ZeRO-3 would wait for ever otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor

from meteor_agents.backends.local.chat_template import IGNORED, EncodedExample
from meteor_agents.backends.training.ranks.batching.batches import Mixture, collate
from meteor_agents.backends.training.ranks.batching.encoding import EncodedRow
from meteor_agents.backends.training.ranks.batching.losses import (
    Replies,
    length_weights,
    pairwise_loss,
    token_log_probs,
)
from meteor_agents.backends.training.ranks.model import frozen
from meteor_agents.training import PairwiseLoss, SelfDistillation

CHOSEN, REJECTED, MISMATCHED = 0, 1, 2
"""Indices into a row's sequences; only KTO's rows have the third."""


class PairLoss(NamedTuple):
    """A micro-batch's part of the batch's loss and margin, both scalars."""

    loss: Tensor
    margin: Tensor


def pair_loss(
    engine: Any, rows: Sequence[EncodedRow], loss: PairwiseLoss, divergence: float, of: Mixture, device: torch.device
) -> PairLoss:
    """The loss of these pairs and supervised rows, as their part of the batch `of`. One forward pass.

    Both kinds weigh as much as their share of the batch's rows: the pairs' losses are divided by all rows, and so is the
    supervised loss after it was multiplied by the number of supervised rows. `divergence` is KTO's z0 (`divergence_of`).
    """
    pairs = _pairs(rows)
    sides = [row.sequences[side] for side in (CHOSEN, REJECTED) for row in pairs]
    examples = [row.sequences[0] for row in rows if row.kind == "supervised"]
    log_probs = _log_probs(engine, [*sides, *examples], device)
    if not pairs:
        return PairLoss(-log_probs.sum() / of.supervised, torch.zeros((), device=device))
    weights = [_weights(row, side, loss) for side in (CHOSEN, REJECTED) for row in pairs]
    references = [row.reference[side] if row.reference else 0.0 for side in (CHOSEN, REJECTED) for row in pairs]
    replies = _replies(log_probs, weights, references)
    chosen, rejected = (Replies(*(values.chunk(2)[side] for values in replies)) for side in (CHOSEN, REJECTED))
    margin = (chosen.mean - rejected.mean).detach().sum() / of.pairs
    total = pairwise_loss(loss, chosen, rejected, divergence=divergence, total=of.rows)
    if examples:
        total = total - log_probs[sum(map(len, weights)) :].sum() / of.supervised
    return PairLoss(total, margin)


def with_reference(
    engine: Any, rows: Sequence[EncodedRow], loss: PairwiseLoss, micro_batch_size: int, device: torch.device
) -> list[EncodedRow]:
    """The rows with the log-probabilities of the pairs' replies under the engine's present weights.

    The ranks share the work. For a loss without a reference, the rows are returned as they were.
    """
    if not loss.needs_reference or not _pairs(rows):
        return list(rows)
    pairs = iter(_referenced(engine, _pairs(rows), loss, micro_batch_size, device))
    return [next(pairs) if row.kind == "pair" else row for row in rows]


def _referenced(
    engine: Any, rows: Sequence[EncodedRow], loss: PairwiseLoss, micro_batch_size: int, device: torch.device
) -> list[EncodedRow]:
    """The pairs with their reference, and with mismatched replies for KTO."""
    if loss.name == "kto":
        rows = _with_mismatches(rows)
    entries = [(index, side) for index, row in enumerate(rows) for side in range(len(row.sequences))]
    sums = torch.zeros(len(entries), device=device)
    rank, ranks = _rank_and_ranks()
    passes = ceil(len(entries) / (micro_batch_size * ranks))
    with frozen(engine):
        for number in range(passes):
            start = (number * ranks + rank) * micro_batch_size
            part = entries[start : start + micro_batch_size] or entries[:1]  # a rank without work repeats some
            sequences = [rows[index].sequences[side] for index, side in part]
            weights = [_weights(rows[index], side, loss) for index, side in part]
            replies = _replies(_log_probs(engine, sequences, device), weights, [0.0] * len(part))
            if start < len(entries):
                sums[start : start + len(part)] = replies.log_probs
    _add_up(sums)
    found = dict(zip(entries, sums.tolist(), strict=True))
    return [
        replace(row, reference=tuple(found[index, side] for side in range(len(row.sequences))))
        for index, row in enumerate(rows)
    ]


def divergence_of(
    engine: Any,
    share: Sequence[Sequence[EncodedRow]],
    batch: Sequence[EncodedRow],
    loss: PairwiseLoss | SelfDistillation | None,
    device: torch.device,
) -> float:
    """KTO's z0 over the pairs of the whole batch (arXiv 2402.01306); 0.0 for every other loss.

    It is the mean of r over each prompt with a reply to another prompt, but at least 0. This rank computes `share`, its
    micro-batches, and the ranks add up.
    """
    pairs = _pairs(batch)
    if loss is None or loss.name != "kto" or not pairs:
        return 0.0
    total = torch.zeros((), device=device)
    with frozen(engine):
        for rows in share:
            own = _pairs(rows)
            asked = own or pairs[:1]  # a rank without pairs makes its pass too
            sequences = [row.sequences[MISMATCHED] for row in asked]
            weights = [_weights(row, MISMATCHED, loss) for row in asked]
            references = [row.reference[MISMATCHED] for row in asked]
            total += _replies(_log_probs(engine, sequences, device), weights, references).ratios[: len(own)].sum()
    _add_up(total)
    return max(0.0, float(total) / len(pairs))


def _pairs(rows: Sequence[EncodedRow]) -> list[EncodedRow]:
    return [row for row in rows if row.kind == "pair"]


def _with_mismatches(rows: Sequence[EncodedRow]) -> list[EncodedRow]:
    """Add a third sequence to each row: its prompt with the next row's chosen or rejected reply, no longer than the row."""
    mismatched = []
    for index, row in enumerate(rows):
        other = rows[(index + 1) % len(rows)].sequences[index % 2]
        own = row.sequences[CHOSEN]
        prompt = len(own.labels) - sum(label != IGNORED for label in own.labels)
        reply = [token for token, label in zip(other.ids, other.labels, strict=True) if label != IGNORED]
        ids = [*own.ids[:prompt], *reply][: row.length]
        mismatched.append(
            replace(row, sequences=(*row.sequences, EncodedExample(ids, [IGNORED] * prompt + ids[prompt:])))
        )
    return mismatched


def _weights(row: EncodedRow, side: int, loss: PairwiseLoss) -> Tensor:
    """The weight of each supervised token of that side, [tokens]."""
    lengths = [sum(label != IGNORED for label in sequence.labels) for sequence in row.sequences]
    other = lengths[1 - side] if side in (CHOSEN, REJECTED) else lengths[side]
    return length_weights(lengths[side], other, loss.length_desensitise)


def _log_probs(engine: Any, sequences: list[EncodedExample], device: torch.device) -> Tensor:
    """The supervised tokens' log-probabilities in the order of the sequences, then 0 for fillers, [n]. One forward pass."""
    tensors = collate(sequences, device)
    return token_log_probs(engine(tensors.ids, tensors.attention_mask, tensors.wanted), tensors.labels)


def _replies(log_probs: Tensor, weights: list[Tensor], references: list[float]) -> Replies:
    """The replies whose tokens have these log-probabilities, one after the other; further ones are not looked at."""
    device = log_probs.device
    lengths = torch.tensor([len(each) for each in weights], device=device)
    owner = torch.repeat_interleave(torch.arange(len(weights), device=device), lengths)
    weight = torch.cat(weights).to(device)
    supervised = log_probs[: len(owner)]

    def by_reply(values: Tensor) -> Tensor:
        return torch.zeros(len(weights), device=device).index_add(0, owner, values)

    return Replies(
        log_probs=by_reply(supervised * weight),
        lengths=by_reply(weight),
        reference=torch.tensor(references, device=device),
        mean=by_reply(supervised) / lengths,
    )


def _rank_and_ranks() -> tuple[int, int]:
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def _add_up(tensor: Tensor) -> None:
    """Replace the tensor by its sum over all ranks."""
    if _rank_and_ranks()[1] > 1:
        torch.distributed.all_reduce(tensor)
