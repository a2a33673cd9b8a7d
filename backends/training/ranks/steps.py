"""The optimizer steps of a job: each rank's micro-batches forward and backward, then one step of all ranks together."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from meteor_agents.backends.local.chat_template import IGNORED, EncodedExample
from meteor_agents.backends.training.ranks.batching.batches import (
    BatchPlan,
    Mixture,
    collate,
    collate_packed,
    learning_rate,
)
from meteor_agents.backends.training.ranks.batching.distillation_batches import distilled_loss, informed_logits
from meteor_agents.backends.training.ranks.batching.encoding import EncodedRow
from meteor_agents.backends.training.ranks.batching.losses import sft_loss, summed_in_chunks
from meteor_agents.backends.training.ranks.batching.preference_batches import divergence_of, pair_loss
from meteor_agents.backends.training.ranks.progress import Board, Step, tell
from meteor_agents.backends.training.ranks.rank import Rank
from meteor_agents.backends.training.work_folder import WorkFolder
from meteor_agents.errors import TrainingError
from meteor_agents.training import PairwiseLoss, SelfDistillation, TrainingJob, TrainingSettings


def train_steps(
    engine: Any, plan: BatchPlan, rows: Sequence[EncodedRow], job: TrainingJob, rank: Rank, work: WorkFolder
) -> list[Step]:
    """Make all steps of the job with DeepSpeed's `engine`. Raises `TrainingError` when a loss or gradient is not finite."""
    steps = plan.steps_per_epoch * job.settings.epochs
    tells = rank.index == 0
    done: list[Step] = []
    with Board(work.board if tells and job.settings.tensorboard else None) as board:
        for number, batch in enumerate(_batches(plan, rows, job.settings)):
            step = _step(engine, plan, batch, learning_rate(number, steps, job.settings), job, rank)
            broken = "loss" if not math.isfinite(step.loss) else "gradient" if _lost_gradient(engine, rank) else None
            if broken:
                raise TrainingError(
                    f"the {broken} is not finite at step {number + 1} of {steps}: try a lower learning_rate, "
                    "or dtype float32"
                )
            done.append(step)
            if tells:
                tell(work, board, done, steps)
    return done


def _batches(plan: BatchPlan, rows: Sequence[EncodedRow], settings: TrainingSettings) -> Iterator[list[EncodedRow]]:
    for epoch in range(settings.epochs):
        yield from plan.epoch(rows, f"{settings.seed}-{epoch}")


def _step(engine: Any, plan: BatchPlan, batch: list[EncodedRow], rate: float, job: TrainingJob, rank: Rank) -> Step:
    began = time.perf_counter()
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    packed = job.settings.max_length if job.settings.packing else None
    sums = torch.zeros(2, device=rank.device)
    share = plan.share(batch, rank.index)
    divergence = divergence_of(engine, share, batch, job.loss, rank.device)
    for rows in share:
        loss, margin = micro_loss(engine, rows, batch, job.loss, divergence, rank, packed)
        sums += torch.stack([loss.detach(), margin])
        engine.backward(loss * (plan.accumulation * plan.ranks))  # DeepSpeed averages over both; the loss is a sum
        engine.step()
    if rank.count > 1:
        torch.distributed.all_reduce(sums)
    total, margin_mean = sums.tolist()
    mean = margin_mean if Mixture.of(batch).pairs else None
    return Step(total, sum(row.tokens for row in batch), mean, time.perf_counter() - began, rate)


def micro_loss(
    engine: Any,
    rows: list[EncodedRow],
    batch: list[EncodedRow],
    loss: PairwiseLoss | SelfDistillation | None,
    divergence: float,
    rank: Rank,
    packed: int | None,
) -> tuple[Tensor, Tensor]:
    """This micro-batch's part of the batch's loss and of its margin; the parts of a batch add up to the whole.

    With `packed`, the examples of a job that has nothing else are packed into rows of at most that many tokens.
    """
    none = torch.zeros((), device=rank.device)
    informed = informed_logits(engine, rows, batch, rank.device)
    if not rows:  # every rank makes the same number of passes: this one counts nothing
        ids = batch[0].sequences[0].ids[:2]
        tensors = collate([EncodedExample(ids, [IGNORED, *ids[1:]])], rank.device)
        return engine(tensors.ids, tensors.attention_mask, tensors.wanted).float().sum() * 0.0, none
    if loss is None:
        sequences = [row.sequences[0] for row in rows]
        tensors = collate_packed(sequences, packed, rank.device) if packed else collate(sequences, rank.device)
        logits = engine(tensors.ids, tensors.attention_mask, tensors.wanted, tensors.positions)
        count = sum(row.supervised for row in batch)
        return summed_in_chunks(partial(sft_loss, total=count), logits, tensors.labels), none
    if isinstance(loss, SelfDistillation):
        return distilled_loss(engine, rows, informed, loss, Mixture.of(batch), rank.device), none
    return pair_loss(engine, rows, loss, divergence, Mixture.of(batch), rank.device)


def _lost_gradient(engine: Any, rank: Rank) -> bool:
    """Whether the last step's gradient was not finite. float16 meets such steps in passing, and DeepSpeed skips them."""
    norm = engine.get_global_grad_norm()
    return rank.dtype != torch.float16 and norm is not None and not 0 <= float(norm) < math.inf
