"""The losses: one for supervised examples, six for preference pairs, one for distilled replies.

The supervised loss is a mean over tokens. The pairwise functions return one value a pair, and `pairwise_loss` takes their
mean. Both divide by `total` where it is given. A rank that sees a batch in pieces passes the count of the whole batch, so
the losses of the pieces add up to the batch's: neither the loss nor its gradient depends on how a batch is split into
micro-batches and ranks.

In the equations w is the chosen reply and l the rejected one, |y| the number of a reply's tokens, p the model being
trained, p0 the weights that training starts from, r(y) = log p(y) - log p0(y), and s the logistic function. Arguments
named `chosen_...` and `rejected_...` are [pairs]: `logps` are log p(y), `ratios` r(y), `lengths` |y|. All return [pairs].
"""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, logsigmoid
from torch.utils.checkpoint import checkpoint

from meteor_agents.backends.local.chat_template import IGNORED
from meteor_agents.training import Divergence, PairwiseLoss


def sft_loss(logits: Tensor, labels: Tensor, total: float | None = None) -> Tensor:
    """The mean negative log-likelihood of the supervised tokens, -log p(token), as a float32 scalar.

    `logits` [..., vocabulary] predict the `labels` [...] of the same position: they are shifted already. Positions whose
    label is IGNORED change neither value nor gradient. `total` replaces the number of supervised tokens in the mean.
    """
    count = float((labels != IGNORED).sum()) if total is None else total
    flat = logits.reshape(-1, logits.shape[-1]).float()
    return cross_entropy(flat, labels.reshape(-1), ignore_index=IGNORED, reduction="sum") / count


def token_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """log p(label) at each position, in float32: [n, vocabulary], [n] -> [n]; 0 where the label is IGNORED."""
    return -cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none")


class Replies(NamedTuple):
    """One side of preference pairs, chosen or rejected. All are [pairs]."""

    log_probs: Tensor
    """Sums of the tokens' log-probabilities, each times its weight (`length_weights`)."""
    lengths: Tensor
    """Sums of the weights; the numbers of tokens when all weights are 1."""
    reference: Tensor
    """Like `log_probs`, under the weights that training starts from. Losses without a reference do not read it."""
    mean: Tensor
    """Means of the tokens' log-probabilities, without weights."""

    @property
    def ratios(self) -> Tensor:
        """r(y) of each reply."""
        return self.log_probs - self.reference


def pairwise_loss(
    loss: PairwiseLoss, chosen: Replies, rejected: Replies, *, divergence: float = 0.0, total: float | None = None
) -> Tensor:
    """The mean over pairs of the loss that the settings name, plus `nll` times -log p(w) / |w|, as a scalar.

    The second term keeps the chosen reply likely; without it a difference can also grow by both replies becoming unlikely
    (arXiv 2404.19733). `divergence` is KTO's z0. `total` replaces the number of pairs in the mean.
    """
    values = _values(loss, chosen, rejected, divergence)
    return (values - loss.nll * chosen.mean).sum() / (len(values) if total is None else total)


def _values(loss: PairwiseLoss, chosen: Replies, rejected: Replies, divergence: float) -> Tensor:
    lengths = (chosen.lengths, rejected.lengths)
    match loss.name:
        case "hinge":
            return hinge(chosen.log_probs, rejected.log_probs, *lengths, loss.margin)
        case "simpo":
            return simpo(chosen.log_probs, rejected.log_probs, *lengths, loss.beta, loss.margin)
        case "dpo":
            return dpo(chosen.ratios, rejected.ratios, loss.beta, loss.label_smoothing)
        case "rdpo":
            return rdpo(chosen.ratios, rejected.ratios, loss.beta, loss.label_smoothing)
        case "ipo":
            return ipo(chosen.ratios, rejected.ratios, *lengths, loss.beta)
        case "kto":
            return kto(chosen.ratios, rejected.ratios, divergence, loss.beta)


def hinge(
    chosen_logps: Tensor, rejected_logps: Tensor, chosen_lengths: Tensor, rejected_lengths: Tensor, margin: float
) -> Tensor:
    """METEOR's self-training loss (arXiv 2411.11933, stage 3), per token and with a margin.

        max(0, margin - (log p(w) / |w| - log p(l) / |l|))

    It differs from the plain hinge on log-likelihoods in two ways. Dividing by the length keeps a reply from winning by
    being short. The margin is above 0 because the reply of a beam search is likelier from the start, so a hinge at 0
    would have no gradient for just these pairs.
    """
    return torch.clamp(margin - (chosen_logps / chosen_lengths - rejected_logps / rejected_lengths), min=0.0)


def simpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    beta: float,
    margin: float,
) -> Tensor:
    """Simple preference optimisation (arXiv 2405.14734, eq. 6), which needs no reference. `margin` is the paper's gamma.

    -log s(beta (log p(w) / |w| - log p(l) / |l|) - margin)
    """
    return -logsigmoid(beta * (chosen_logps / chosen_lengths - rejected_logps / rejected_lengths) - margin)


def dpo(chosen_ratios: Tensor, rejected_ratios: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Direct preference optimisation (arXiv 2305.18290, eq. 7), with m = beta (r(w) - r(l)).

        -(1 - e) log s(m) - e log s(-m)

    e is `label_smoothing`, the assumed share of pairs with the wrong reply preferred (conservative DPO). At 0 it is the
    paper's loss.
    """
    margins = beta * (chosen_ratios - rejected_ratios)
    return -(1 - label_smoothing) * logsigmoid(margins) - label_smoothing * logsigmoid(-margins)


def rdpo(chosen_ratios: Tensor, rejected_ratios: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """Robust DPO (arXiv 2403.00409). When a share e of the pairs is flipped, its expectation is DPO's on clean pairs.

    (-(1 - e) log s(m) + e log s(-m)) / (1 - 2 e)    with m as in `dpo`, e = `label_smoothing` below 1/2
    """
    margins = beta * (chosen_ratios - rejected_ratios)
    flipped = label_smoothing * logsigmoid(-margins)
    return (flipped - (1 - label_smoothing) * logsigmoid(margins)) / (1 - 2 * label_smoothing)


def ipo(
    chosen_ratios: Tensor, rejected_ratios: Tensor, chosen_lengths: Tensor, rejected_lengths: Tensor, beta: float
) -> Tensor:
    """Identity preference optimisation (arXiv 2310.12036, eq. 17), per token. `beta` is the paper's tau.

        (r(w) / |w| - r(l) / |l| - 1 / (2 beta))²

    The margin is a target, which the difference is also pulled back to. Per token, one beta suits replies of any length.
    """
    return (chosen_ratios / chosen_lengths - rejected_ratios / rejected_lengths - 1 / (2 * beta)) ** 2


def kto(chosen_ratios: Tensor, rejected_ratios: Tensor, divergence: float, beta: float) -> Tensor:
    """Kahneman-Tversky optimisation (arXiv 2402.01306, eq. 8), with each reply of a pair judged on its own.

        ((1 - s(beta (r(w) - z0))) + (1 - s(beta (z0 - r(l))))) / 2

    z0 is `divergence`: how far the model has moved from the start in general. It is the mean of r over prompts with replies
    to other prompts, but at least 0, and has no gradient.
    """
    desirable = 1 - torch.sigmoid(beta * (chosen_ratios - divergence))
    undesirable = 1 - torch.sigmoid(beta * (divergence - rejected_ratios))
    return (desirable + undesirable) / 2


def length_weights(length: int, other: int, alpha: float) -> Tensor:
    """The weight of each token of a reply, [length] (LD-DPO, arXiv 2409.06411); the other reply has `other` tokens.

    The first min(length, other) tokens weigh 1, the rest `alpha`. At 1 every token counts; at 0 the tokens by which a reply
    is longer do not.
    """
    weights = torch.ones(length)
    weights[min(length, other) :] = alpha
    return weights


def distillation_loss(student: Tensor, informed: Tensor, weights: Tensor, divergence: Divergence) -> Tensor:
    """The sum over tokens of `weights` times `token_divergences`, as a float32 scalar. `weights` are [n]."""
    return (token_divergences(student, informed, divergence) * weights).sum()


def token_divergences(student: Tensor, informed: Tensor, divergence: Divergence) -> Tensor:
    """How far the distributions of the next token are apart, in nats: logits [n, vocabulary] twice -> float32 [n].

    q is the student's distribution after the prompt, p after the informed one, which gets no gradient.

        reverse    KL(q || p) = sum of q (log q - log p)            SDPO (arXiv 2601.20802)
        forward    KL(p || q) = sum of p (log p - log q)
        jsd        (KL(p || m) + KL(q || m)) / 2, m = (p + q) / 2   generalised JSD (arXiv 2306.13649, eq. 1) at 1/2
    """
    q, p = log_softmax(student.float(), -1), log_softmax(informed.detach().float(), -1)
    match divergence:
        case "reverse":
            return _relative_entropy(q, p)
        case "forward":
            return _relative_entropy(p, q)
        case "jsd":
            mixed = torch.logaddexp(p, q) - log(2)
            return (_relative_entropy(p, mixed) + _relative_entropy(q, mixed)) / 2


def _relative_entropy(of: Tensor, to: Tensor) -> Tensor:
    """KL(of || to) of log-probabilities [n, vocabulary] -> [n]."""
    return (of.exp() * (of - to)).sum(-1)


CHUNK = 1 << 25
"""Logits of one piece, but at least one position: 128 MiB in float32, and about three copies of them."""


def summed_in_chunks(loss: Callable[..., Tensor], logits: Tensor, *others: Tensor, chunk: int = CHUNK) -> Tensor:
    """`loss(logits, *others)`, computed for at most `chunk` logits at a time: a float32 copy of all would be big.

    `logits` are [n, vocabulary] and `others` [n, ...]. The loss must be a sum over positions. Each piece is computed once
    more for its gradient.
    """
    size = max(1, chunk // logits.shape[-1])
    if len(logits) <= size:
        return loss(logits, *others)
    total = logits.new_zeros((), dtype=torch.float32)
    for begin in range(0, len(logits), size):
        piece = [each[begin : begin + size] for each in (logits, *others)]
        total = total + checkpoint(loss, *piece, use_reentrant=False)
    return total
