"""The losses of training, on log-probabilities of replies.

The supervised one is a mean over tokens, the pairwise ones are values [pairs] that `pairwise_loss` adds up. Both take
`total`, what the sum is divided by; without it, the count at hand, which makes a mean. A worker that sees a batch in
pieces passes the whole batch's count, so that the pieces' losses add up to the batch's: how a batch is cut into
micro-batches and ranks then changes neither the loss nor the gradient.

In the equations w is the chosen reply and l the rejected one, |y| a reply's tokens, p the model that is trained and
p0 the weights that training starts from, r(y) = log p(y) - log p0(y), and s the logistic function.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from meteor_agents.backends.local.chat_template import IGNORED
from meteor_agents.training import PairwiseLoss


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


class Replies(NamedTuple):
    """One side of preference pairs. All are [pairs]."""

    log_probs: Tensor
    """Sums over the reply's tokens, each times its weight (`length_weights`)."""
    lengths: Tensor
    """Sums of the weights: tokens, where all weights are 1."""
    reference: Tensor
    """As `log_probs`, under the weights that training starts from; not read by losses without a reference."""
    mean: Tensor
    """Plain mean of the tokens' log-probabilities."""

    @property
    def ratios(self) -> Tensor:
        return self.log_probs - self.reference


def pairwise_loss(
    loss: PairwiseLoss, chosen: Replies, rejected: Replies, *, divergence: float = 0.0, total: float | None = None
) -> Tensor:
    """The loss that the settings name, plus `nll` times the chosen replies' own negative log-likelihood per token.

    The second term keeps what is preferred likely, where a difference alone could grow by both replies becoming
    unlikely (arXiv 2404.19733). `divergence` is KTO's z0; `total` counts pairs.
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
    """METEOR's self-training loss (arXiv 2411.11933, stage 3), by tokens and with a margin.

        max(0, margin - (log p(w) / |w| - log p(l) / |l|))

    Both differ from the bare hinge on log-likelihoods: dividing by the length keeps a reply from winning by being
    short, and `margin` is above 0 because a beam's reply is already the likelier one, so that a hinge at 0 would be flat
    exactly where pairs come from.
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
    """Simple preference optimisation (arXiv 2405.14734, eq. 6), without a reference; `margin` is its gamma.

    -log s(beta (log p(w) / |w| - log p(l) / |l|) - margin)
    """
    return -logsigmoid(beta * (chosen_logps / chosen_lengths - rejected_logps / rejected_lengths) - margin)


def dpo(chosen_ratios: Tensor, rejected_ratios: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Direct preference optimisation (arXiv 2305.18290, eq. 7), with m = beta (r(w) - r(l)).

        -(1 - e) log s(m) - e log s(-m)

    e is `label_smoothing`: the share of pairs taken to be the wrong way round (conservative DPO; 0 is the paper's loss).
    """
    margins = beta * (chosen_ratios - rejected_ratios)
    return -(1 - label_smoothing) * logsigmoid(margins) - label_smoothing * logsigmoid(-margins)


def rdpo(chosen_ratios: Tensor, rejected_ratios: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """Robust DPO (arXiv 2403.00409), whose expectation under a share e of flipped pairs is DPO without any.

    (-(1 - e) log s(m) + e log s(-m)) / (1 - 2 e)    with m as in `dpo`, e = `label_smoothing` below 1/2
    """
    margins = beta * (chosen_ratios - rejected_ratios)
    flipped = label_smoothing * logsigmoid(-margins)
    return (flipped - (1 - label_smoothing) * logsigmoid(margins)) / (1 - 2 * label_smoothing)


def ipo(
    chosen_ratios: Tensor, rejected_ratios: Tensor, chosen_lengths: Tensor, rejected_lengths: Tensor, beta: float
) -> Tensor:
    """Identity preference optimisation (arXiv 2310.12036, eq. 17), by tokens; `beta` is its tau.

        (r(w) / |w| - r(l) / |l| - 1 / (2 beta))²

    It stops at a margin instead of pushing on. Taken by tokens, one beta serves replies of all lengths.
    """
    return (chosen_ratios / chosen_lengths - rejected_ratios / rejected_lengths - 1 / (2 * beta)) ** 2


def kto(chosen_ratios: Tensor, rejected_ratios: Tensor, divergence: float, beta: float) -> Tensor:
    """Kahneman-Tversky optimisation (arXiv 2402.01306), with both replies of a pair judged on their own.

        ((1 - s(beta (r(w) - z0))) + (1 - s(beta (z0 - r(l))))) / 2

    z0 is `divergence`: how far the model has moved from the start in general, as the mean of r over prompts with replies
    to other prompts, not below 0. It carries no gradient.
    """
    desirable = 1 - torch.sigmoid(beta * (chosen_ratios - divergence))
    undesirable = 1 - torch.sigmoid(beta * (divergence - rejected_ratios))
    return (desirable + undesirable) / 2


def length_weights(length: int, other: int, alpha: float) -> Tensor:
    """The weight of each token of a reply of `length` tokens whose counterpart has `other` (arXiv 2409.06411, LD-DPO).

    1 for as many tokens as the shorter one has, `alpha` for the rest: at 1 every token counts, at 0 what is only longer
    counts for nothing.
    """
    weights = torch.ones(length)
    weights[min(length, other) :] = alpha
    return weights
