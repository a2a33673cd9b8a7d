"""The losses by themselves: against TRL's own code, finite differences, and each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meteor_agents.training import Divergence, LossName, PairwiseLoss

torch = pytest.importorskip("torch", reason="needs the packages of the extra [local]")

NAMES: tuple[LossName, ...] = get_args(LossName)
LENGTHS = ((3, 5, 2, 6, 4), (4, 2, 2, 3, 6))
"""Tokens of the chosen and the rejected replies."""


class Batch:
    """Random log-probabilities of pairs, by token, now (with gradients) and under a reference."""

    def __init__(self, seed: int, lengths: tuple[tuple[int, ...], ...] = LENGTHS) -> None:
        random = torch.Generator().manual_seed(seed)

        def tokens(of_side: tuple[int, ...]) -> Any:
            rows = torch.zeros(len(of_side), 1 + max(map(max, lengths)), dtype=torch.float64)
            for row, length in zip(rows, of_side, strict=True):
                row[1 : 1 + length] = -3 * torch.rand(length, generator=random)
            return rows

        self.lengths = lengths
        self.sides = [tokens(side).requires_grad_() for side in lengths]
        self.references = [tokens(side) for side in lengths]
        self.masks = [(tokens(side) != 0).long() for side in lengths]
        self.mismatch, self.mismatch_reference = -torch.rand(2, 5, generator=random).double() * 9

    @property
    def divergence(self) -> float:
        return max(0.0, float((self.mismatch - self.mismatch_reference).mean()))

    def replies(self, alpha: float = 1.0) -> Any:
        from meteor_agents.backends.training.ranks.batching.losses import Replies, length_weights

        found = []
        for side in (0, 1):
            weights = torch.zeros_like(self.sides[side])
            for row, length, other in zip(weights, self.lengths[side], self.lengths[1 - side], strict=True):
                row[1 : 1 + length] = length_weights(length, other, alpha)
            log_probs, reference = ((values * weights).sum(1) for values in (self.sides[side], self.references[side]))
            mean = self.sides[side].sum(1) / self.masks[side].sum(1)
            found.append(Replies(log_probs, weights.sum(1), reference, mean))
        return found

    def gradients_of(self, loss: Any) -> Any:
        """By token of a reply; padding has none."""
        gradients = torch.cat(torch.autograd.grad(loss, self.sides))
        return gradients[torch.cat(self.masks).bool()]


def ours(batch: Batch, loss: PairwiseLoss) -> Any:
    from meteor_agents.backends.training.ranks.batching.losses import pairwise_loss

    chosen, rejected = batch.replies(loss.length_desensitise)
    return pairwise_loss(loss, chosen, rejected, divergence=batch.divergence)


# TRL's code, called on the least object that it runs on: its trainers have the losses as methods


def trl(module: str = "trl") -> Any:
    return pytest.importorskip(module, reason="compares with TRL, of the extra [dev]")


class Accelerator:
    device = "cpu"

    def gather(self, value: Any) -> Any:
        return value

    gather_for_metrics = gather


def model_that_says(log_probs: Any) -> Any:
    """A model's outputs where only the log-probabilities matter."""
    flat = torch.zeros_like(log_probs)

    def model(**_: Any) -> Any:
        return SimpleNamespace(log_probs=log_probs, entropy=flat, mean_logits=flat, is_top1=flat.bool())

    model.training = True  # type: ignore[attr-defined]  # a function stands in for the module
    return model


def trainer(**fields: Any) -> Any:
    return SimpleNamespace(
        accelerator=Accelerator(),
        aux_loss_enabled=False,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **fields,
    )


def trl_dpo(batch: Batch, types: list[str], **fields: Any) -> Any:
    mask = torch.cat(batch.masks)
    ids = torch.zeros_like(mask)
    reference = torch.cat(batch.references)[:, 1:]
    alpha = fields.get("ld_alpha")
    sums = reference.sum(1).chunk(2) if alpha is None else tuple(side.reference for side in batch.replies(alpha))
    stub = trainer(
        loss_types=types,
        f_divergence_type="reverse_kl",
        use_weighting=False,
        precompute_ref_logps=True,
        **({"ld_alpha": None, "loss_weights": [1.0], "label_smoothing": 0.0} | fields),
    )
    stub.model = model_that_says(torch.cat(batch.sides)[:, 1:])
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "completion_mask": mask,
        "ref_chosen_logps": sums[0],
        "ref_rejected_logps": sums[1],
    }
    return trl().DPOTrainer._compute_loss(stub, stub.model, inputs, False)


def trl_kto(batch: Batch, beta: float) -> Any:
    mask = torch.cat(batch.masks)
    stub = trainer(
        loss_type="kto",
        beta=beta,
        calculate_KL=True,
        precompute_ref_logps=True,
        desirable_weight=1.0,
        undesirable_weight=1.0,
    )
    stub.model = model_that_says(torch.cat(batch.sides)[:, 1:])
    stub._compute_kl_logps = lambda *_: batch.mismatch
    count = len(batch.lengths[0])
    inputs = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "label": torch.tensor([True] * count + [False] * count),
        "ref_logps": torch.cat(batch.references).sum(1),
        "ref_KL_logps": batch.mismatch_reference,
    }
    return trl().KTOTrainer._compute_loss(stub, stub.model, inputs, False)


def trl_by_tokens(batch: Batch, **fields: Any) -> Any:
    """CPO's trainer has the losses that look at the mean over tokens and at no reference."""
    chosen, rejected = batch.replies()
    stub = SimpleNamespace(accelerator=Accelerator(), alpha=0.0, label_smoothing=0.0, **fields)
    losses, *_ = trl("trl.experimental.cpo").CPOTrainer.cpo_loss(stub, chosen.mean, rejected.mean)
    return losses.mean()


CASES: dict[str, tuple[PairwiseLoss, Callable[[Batch], Any]]] = {
    "hinge": (PairwiseLoss(margin=0.4), lambda b: 0.4 * trl_by_tokens(b, loss_type="hinge", beta=1 / 0.4)),
    "simpo": (
        PairwiseLoss(name="simpo", beta=2.5, margin=0.7),
        lambda b: trl_by_tokens(b, loss_type="simpo", beta=2.5, simpo_gamma=0.7),
    ),
    "dpo": (PairwiseLoss(name="dpo", beta=0.3), lambda b: trl_dpo(b, ["sigmoid"], beta=0.3)),
    "dpo, the tail at 0.4": (
        PairwiseLoss(name="dpo", beta=0.3, length_desensitise=0.4),
        lambda b: trl_dpo(b, ["sigmoid"], beta=0.3, ld_alpha=0.4),
    ),
    "ipo": (PairwiseLoss(name="ipo", beta=0.2), lambda b: trl_dpo(b, ["ipo"], beta=0.2)),
    "rdpo": (
        PairwiseLoss(name="rdpo", beta=0.3, label_smoothing=0.2),
        lambda b: trl_dpo(b, ["robust"], beta=0.3, label_smoothing=0.2),
    ),
    "kto": (PairwiseLoss(name="kto", beta=0.3), lambda b: trl_kto(b, 0.3)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.filterwarnings("ignore")
def test_value_and_gradient_agree_with_trl(case: str, seed: int) -> None:
    loss, theirs = CASES[case]
    batch = Batch(seed)
    mine, their = ours(batch, loss), theirs(batch)
    assert mine.item() == pytest.approx(their.item(), abs=1e-5)
    gradients = batch.gradients_of(mine)
    assert torch.allclose(gradients, batch.gradients_of(their), atol=1e-5)
    assert gradients.abs().max() > 1e-4


@pytest.mark.filterwarnings("ignore")
def test_nll_on_the_winner_agrees_with_trl_where_winners_are_of_one_length() -> None:
    """Elsewhere TRL weighs every token alike, we every reply."""
    batch = Batch(7, ((4, 4, 4, 4, 4), LENGTHS[1]))
    mine = ours(batch, PairwiseLoss(name="dpo", beta=0.3, nll=0.5))
    their = trl_dpo(batch, ["sigmoid", "sft"], beta=0.3, loss_weights=[1.0, 0.5])
    assert mine.item() == pytest.approx(their.item(), abs=1e-5)
    gradients = batch.gradients_of(mine)
    assert torch.allclose(gradients, batch.gradients_of(their), atol=1e-5)


# Self-distillation: SDPO's trainer, and the divergence of GKD's

REPLY_LENGTHS = (3, 6, 1)


class Predictions:
    """Random logits over a small vocabulary at the tokens of replies, with and without feedback, padded."""

    def __init__(self, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        shape = (len(REPLY_LENGTHS), max(REPLY_LENGTHS), 11)
        self.student = (2 * torch.randn(shape, generator=random)).requires_grad_()
        self.informed = 2 * torch.randn(shape, generator=random)
        self.mask = torch.tensor([[1.0] * n + [0.0] * (max(REPLY_LENGTHS) - n) for n in REPLY_LENGTHS])

    def ours(self, divergence: Divergence) -> Any:
        from meteor_agents.backends.training.ranks.batching.losses import distillation_loss

        inside = self.mask.bool()
        weights = (self.mask / self.mask.sum(1, keepdim=True) / len(self.mask))[inside]
        return distillation_loss(self.student[inside], self.informed[inside], weights, divergence)


def trl_sdpo(predictions: Predictions, alpha: float) -> Any:
    """SDPO's loss over the whole vocabulary, without the correction for replies of older weights."""
    module = trl("trl.experimental.sdpo.sdpo_trainer")
    stub = trainer(_log_self_distillation_metric=lambda *_: None)
    stub.args = SimpleNamespace(distillation_mode="full_logits", distillation_alpha=alpha, distillation_is_clip=None)
    inputs = SimpleNamespace(
        student_logits=predictions.student, teacher_logits=predictions.informed, loss_mask=predictions.mask
    )
    model = SimpleNamespace(training=True)
    return module.SDPOTrainer._compute_self_distillation_loss(stub, model, {}, inputs)


ALPHAS: dict[Divergence, float] = {"reverse": 1.0, "forward": 0.0, "jsd": 0.5}


@pytest.mark.parametrize("divergence", ALPHAS)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.filterwarnings("ignore")
def test_self_distillation_agrees_with_trls_sdpo(divergence: Divergence, seed: int) -> None:
    predictions = Predictions(seed)
    mine, their = predictions.ours(divergence), trl_sdpo(predictions, ALPHAS[divergence])
    assert mine.item() == pytest.approx(their.item(), abs=1e-5)
    (gradient,), (other,) = (torch.autograd.grad(loss, predictions.student) for loss in (mine, their))
    assert torch.allclose(gradient, other, atol=1e-5)
    assert gradient.abs().max() > 1e-3


@pytest.mark.parametrize("divergence", ALPHAS)
@pytest.mark.filterwarnings("ignore")
def test_token_divergences_agree_with_trls_gkd(divergence: Divergence) -> None:
    from meteor_agents.backends.training.ranks.batching.losses import token_divergences

    predictions = Predictions(5)
    theirs = trl("trl.experimental.gkd").GKDTrainer.generalized_jsd_loss(
        predictions.student, predictions.informed, beta=ALPHAS[divergence], reduction="none"
    )
    mine = token_divergences(predictions.student.flatten(0, 1), predictions.informed.flatten(0, 1), divergence)
    assert torch.allclose(mine, theirs.sum(-1).flatten(), atol=1e-5)


def test_informed_predictions_get_no_gradient() -> None:
    predictions = Predictions(2)
    predictions.informed.requires_grad_()
    predictions.ours("jsd").backward()
    assert predictions.informed.grad is None
    assert predictions.student.grad.abs().max() > 0


# By themselves


@pytest.mark.parametrize("name", NAMES)
def test_gradient_agrees_with_finite_differences(name: LossName) -> None:
    from meteor_agents.backends.training.ranks.batching.losses import Replies, pairwise_loss

    loss = PairwiseLoss(name=name, nll=0.2, length_desensitise=0.5)
    chosen, rejected = Batch(3).replies(0.5)
    parts = [part.detach().requires_grad_() for part in (chosen.log_probs, rejected.log_probs, chosen.mean)]

    def value(chosen_sum: Any, rejected_sum: Any, mean: Any) -> Any:
        winners = Replies(chosen_sum, chosen.lengths, chosen.reference, mean)
        losers = Replies(rejected_sum, rejected.lengths, rejected.reference, rejected.mean.detach())
        return pairwise_loss(loss, winners, losers, divergence=0.3)

    assert torch.autograd.gradcheck(value, parts)


@pytest.mark.parametrize("name", NAMES)
def test_pieces_add_up_to_the_batch(name: LossName) -> None:
    from meteor_agents.backends.training.ranks.batching.losses import Replies, pairwise_loss

    loss = PairwiseLoss(name=name, nll=0.1)
    sides = Batch(5).replies()
    whole = pairwise_loss(loss, *sides, divergence=0.2)
    pieces = [
        pairwise_loss(loss, *(Replies(*(part[cut] for part in side)) for side in sides), divergence=0.2, total=5)
        for cut in (slice(0, 1), slice(1, 5))
    ]
    assert sum(piece.item() for piece in pieces) == pytest.approx(whole.item(), abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10_000), step=st.floats(0.01, 5))
def test_no_loss_rises_when_the_chosen_reply_becomes_likelier(name: LossName, seed: int, step: float) -> None:
    from meteor_agents.backends.training.ranks.batching.losses import pairwise_loss

    loss = PairwiseLoss(name=name)
    chosen, rejected = (side._replace(log_probs=side.log_probs.detach()) for side in Batch(seed).replies())
    before = pairwise_loss(loss, chosen, rejected)
    after = pairwise_loss(loss, chosen._replace(log_probs=chosen.log_probs + step), rejected)
    ahead = chosen.ratios / chosen.lengths - rejected.ratios / rejected.lengths
    if name == "ipo" and (ahead + step / chosen.lengths).max() > 1:
        return  # it wants a distance of 1 here, not more
    assert after.item() <= before.item() + 1e-12


def test_hinge_is_zero_only_beyond_the_margin() -> None:
    from meteor_agents.backends.training.ranks.batching.losses import hinge

    # per token: -0.5 against -1.0, -0.5 against -0.45, -0.5 against -0.55
    chosen, rejected = torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-4.0, -1.8, -2.2])
    values = hinge(chosen, rejected, torch.tensor([2, 2, 2]), torch.tensor([4, 4, 4]), margin=0.1)
    assert values.tolist() == pytest.approx([0.0, 0.15, 0.05], abs=1e-6)


def test_weights_are_lowered_only_where_a_reply_is_longer() -> None:
    from meteor_agents.backends.training.ranks.batching.losses import length_weights

    assert length_weights(5, 3, 0.25).tolist() == [1, 1, 1, 0.25, 0.25]
    assert length_weights(3, 5, 0.25).tolist() == [1, 1, 1]
    assert length_weights(4, 2, 1.0).tolist() == [1, 1, 1, 1]


def test_parameter_of_another_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="the loss dpo has no margin; it has beta, label_smoothing"):
        PairwiseLoss(name="dpo", margin=0.2)
    with pytest.raises(ValueError, match="the loss hinge needs a margin above 0"):
        PairwiseLoss(margin=0.0)


@pytest.mark.parametrize("name", NAMES)
def test_loss_survives_its_file(name: LossName) -> None:
    loss = PairwiseLoss(name=name, nll=0.3, length_desensitise=0.5)
    assert PairwiseLoss.model_validate_json(loss.model_dump_json()) == loss
