"""The losses of training, on log-probabilities of replies.

Each takes `total`, what the sum is divided by; without it, the count at hand, which makes a mean. A worker that sees a
batch in pieces passes the whole batch's count, so that the pieces' losses add up to the batch's: how a batch is cut
into micro-batches and ranks then changes neither the loss nor the gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from meteor_agents.backends.chat_template import IGNORED


def sft_loss(logits: Tensor, labels: Tensor, total: float | None = None) -> Tensor:
    """Negative log-likelihood of the supervised tokens, computed in float32.

    `logits` [..., vocabulary] predict `labels` [...] of the same position (shifted already); IGNORED labels leave no
    trace in value or gradient. `total` counts supervised tokens.
    """
    count = float((labels != IGNORED).sum()) if total is None else total
    flat = logits.reshape(-1, logits.shape[-1]).float()
    return cross_entropy(flat, labels.reshape(-1), ignore_index=IGNORED, reduction="sum") / count


def token_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """log p(label) at each position, in float32: [n, vocabulary], [n] -> [n]; 0 where the label is IGNORED."""
    return -cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none")


def pairwise_hinge(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    margin: float,
    *,
    nll: float = 0.0,
    total: float | None = None,
) -> Tensor:
    """METEOR's self-training loss over preference pairs (arXiv 2411.11933, stage 3), with a margin.

        winner = log p(chosen) / |chosen|,  loser = log p(rejected) / |rejected|
        loss = mean of  max(0, margin - (winner - loser)) - nll · winner

    `*_logps` [pairs] are summed log-probabilities of whole replies and `*_lengths` [pairs] their tokens. Both choices
    differ from the bare hinge on log-likelihoods: dividing by the length keeps a reply from winning by being short,
    and `margin` is above 0 because a beam's reply is already the likelier one, so that a hinge at 0 would be flat
    exactly where pairs come from. `nll` adds the winner's own loss, against forgetting. `total` counts pairs.
    """
    winner = chosen_logps / chosen_lengths
    hinge = torch.clamp(margin - (winner - rejected_logps / rejected_lengths), min=0.0)
    return (hinge - nll * winner).sum() / (len(hinge) if total is None else total)
