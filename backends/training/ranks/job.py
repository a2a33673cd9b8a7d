"""One training job on one rank.

1. Read the job, encode its rows, plan its batches: every rank does the same, so each knows the whole plan.
2. Load the start checkpoint in the compute format, add adapters if asked, hand it to DeepSpeed.
3. For each batch: this rank's micro-batches forward and backward, one optimizer step, one line of progress.
4. Gather the float32 masters; rank 0 adds what changed to the start checkpoint, writes the new one and the report.
"""

from __future__ import annotations

import gc
import math
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from meteor_agents.backends.local.chat_template import IGNORED, EncodedExample
from meteor_agents.backends.local.freed_memory import forget_peak_memory, give_back_freed_memory
from meteor_agents.backends.training.checkpoint_folder import write_trained
from meteor_agents.backends.training.config import job_config
from meteor_agents.backends.training.ranks.batches import BatchPlan, EncodedRow, encode_rows, learning_rate
from meteor_agents.backends.training.ranks.board import Board
from meteor_agents.backends.training.ranks.chunked_loss import summed_in_chunks
from meteor_agents.backends.training.ranks.clock import Clock
from meteor_agents.backends.training.ranks.collation import collate, collate_packed
from meteor_agents.backends.training.ranks.losses import sft_loss
from meteor_agents.backends.training.ranks.model import load_model, open_engine
from meteor_agents.backends.training.ranks.optimizer_state import load_optimizer, save_optimizer
from meteor_agents.backends.training.ranks.place import Place
from meteor_agents.backends.training.ranks.preference_batches import divergence_of, pair_loss, with_reference
from meteor_agents.backends.training.ranks.tokenizers_kept import Tokenizers
from meteor_agents.backends.training.ranks.trained_weights import change_of, gather_masters
from meteor_agents.backends.training.work_folder import WorkFolder
from meteor_agents.errors import TrainingError
from meteor_agents.training import PairwiseLoss, TrainingJob, TrainingReport, TrainingSettings, optimizer_beside
from meteor_agents.weight_files import is_float32


def train(work: WorkFolder, tokenizers: Tokenizers, *, first: bool = True) -> None:
    """`first`: of this process. Raises `MeteorError`, on every rank alike."""
    clock = Clock(first=first)
    forget_peak_memory()
    with clock("rows"):
        job, preset = work.read()
        place = Place.of_this_rank(job.settings)
        encoding = encode_rows(tokenizers.of(job.start.path), job.rows, job.settings.max_length)
        plan = BatchPlan.of(len(encoding.rows), job.settings, place.ranks)
    if place.rank == 0:
        opening = _opening(job, place, plan, encoding.too_long)
        print(f"{job.name}: {opening}", flush=True)
        work.append_progress({"kind": "note", "text": opening})
    with clock("model"):
        longest = max(row.length for row in encoding.rows)
        model = load_model(job, place, job.settings.max_length if job.settings.packing else longest)
    with clock("deepspeed"):
        config = job_config(
            preset,
            dtype=place.dtype_name,
            micro_batch_size=plan.micro_batch_size,
            accumulation=plan.accumulation,
            ranks=place.ranks,
            max_grad_norm=job.settings.max_grad_norm,
            accelerator=place.accelerator,
        )
        engine = open_engine(model, config, job.settings, place)
        exact = job.carries_optimizer and load_optimizer(engine, place, optimizer_beside(job.start.path))
    rows = encoding.rows
    if job.loss is not None:
        with clock("reference"):
            rows = with_reference(engine, rows, job.loss, plan.micro_batch_size, place.device)
    with clock("steps"):
        done = _steps(engine, plan, rows, job, place, work)
    with clock("save"):
        if job.keeps_optimizer:
            save_optimizer(engine, place, work.optimizer, masters=not is_float32(job.start.path))
        masters = gather_masters(engine, place)
        change = change_of(model, masters, None if exact else place.dtype)
        skipped = engine.skipped_steps
        engine.destroy()
        del engine, model
        gc.collect()  # DeepSpeed's engine holds itself in circles
        give_back_freed_memory()  # before as much again is taken for the new checkpoint
        if place.rank == 0:
            write_trained(job.start.path, change, work.checkpoint)
    if place.rank == 0:
        work.write_report(
            TrainingReport(
                loss=_mean([step.loss for step in _last_tenth(done)]),
                steps=len(done),
                tokens=sum(step.tokens for step in done),
                seconds=clock.total(),
                rows_used=len(encoding.rows),
                rows_too_long=encoding.too_long,
                metrics=_metrics(done, plan, place, clock) | {"skipped_steps": skipped},
            )
        )


def _opening(job: TrainingJob, place: Place, plan: BatchPlan, too_long: int) -> str:
    steps = plan.steps_per_epoch * job.settings.epochs
    rows = len(job.rows) - too_long
    left_out = f" ({too_long} longer than {job.settings.max_length} tokens left out)" if too_long else ""
    return (
        f"{rows} rows{left_out}, {steps} steps of {plan.batch_size} as {plan.ranks} ranks x {plan.accumulation} x "
        f"{plan.micro_batch_size}, {place.dtype_name} on {place.device.type}"
    )


# The steps


class Step(NamedTuple):
    loss: float
    tokens: int
    margin: float
    """Of preference pairs: mean per-token log-likelihood of the chosen replies less that of the rejected."""
    seconds: float
    rate: float


def _batches(plan: BatchPlan, rows: Sequence[EncodedRow], settings: TrainingSettings) -> Iterator[list[EncodedRow]]:
    for epoch in range(settings.epochs):
        yield from plan.epoch(rows, f"{settings.seed}-{epoch}")


def _steps(
    engine: Any, plan: BatchPlan, rows: Sequence[EncodedRow], job: TrainingJob, place: Place, work: WorkFolder
) -> list[Step]:
    steps = plan.steps_per_epoch * job.settings.epochs
    told = place.rank == 0
    done: list[Step] = []
    with Board(work.board if told and job.settings.tensorboard else None) as board:
        for number, batch in enumerate(_batches(plan, rows, job.settings)):
            step = _step(engine, plan, batch, learning_rate(number, steps, job.settings), job, place)
            broken = "loss" if not math.isfinite(step.loss) else "gradient" if _lost_gradient(engine, place) else None
            if broken:
                raise TrainingError(
                    f"the {broken} is not finite at step {number + 1} of {steps}: try a lower learning_rate, "
                    "or dtype float32"
                )
            done.append(step)
            if told:
                _tell(work, board, done, steps)
    return done


def _step(engine: Any, plan: BatchPlan, batch: list[EncodedRow], rate: float, job: TrainingJob, place: Place) -> Step:
    began = time.perf_counter()
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    most = job.settings.max_length if job.settings.packing else None
    sums = torch.zeros(2, device=place.device)
    share = plan.share(batch, place.rank)
    divergence = divergence_of(engine, share, batch, job.loss, place.device)
    for rows in share:
        loss, margin = _micro_loss(engine, rows, batch, job.loss, divergence, place, most)
        sums += torch.stack([loss.detach(), margin])
        engine.backward(loss * (plan.accumulation * plan.ranks))  # DeepSpeed averages over both; the loss is a sum
        engine.step()
    if place.ranks > 1:
        torch.distributed.all_reduce(sums)
    total, margin_mean = sums.tolist()
    return Step(total, sum(row.tokens for row in batch), margin_mean, time.perf_counter() - began, rate)


def _tell(work: WorkFolder, board: Board, done: list[Step], steps: int) -> None:
    step = done[-1]
    scalars = {"loss": step.loss, "learning_rate": step.rate, "tokens_per_s": step.tokens / step.seconds}
    left = _mean([step.seconds for step in done]) * (steps - len(done))
    work.append_progress({"kind": "step", "step": len(done), "steps": steps, **scalars, "seconds_left": left})
    board.add(len(done), **scalars)


def _lost_gradient(engine: Any, place: Place) -> bool:
    """Whether the last step's gradient was not finite. float16 meets such steps in passing, and DeepSpeed skips them."""
    norm = engine.get_global_grad_norm()
    return place.dtype != torch.float16 and norm is not None and not 0 <= float(norm) < math.inf


def _micro_loss(
    engine: Any,
    rows: list[EncodedRow],
    batch: list[EncodedRow],
    loss: PairwiseLoss | None,
    divergence: float,
    place: Place,
    most: int | None = None,
) -> tuple[Tensor, Tensor]:
    """This micro-batch's part of the whole batch's loss, and of its margin; the parts add up.

    With `most`, supervised examples are packed into rows of at most so many tokens.
    """
    none = torch.zeros((), device=place.device)
    if not rows:  # every rank makes the same number of passes: this one counts nothing
        ids = batch[0].sequences[0].ids[:2]
        tensors = collate([EncodedExample(ids, [IGNORED, *ids[1:]])], place.device)
        return engine(tensors.ids, tensors.attention_mask, tensors.wanted).float().sum() * 0.0, none
    if loss is None:
        sequences = [row.sequences[0] for row in rows]
        tensors = collate_packed(sequences, most, place.device) if most else collate(sequences, place.device)
        logits = engine(tensors.ids, tensors.attention_mask, tensors.wanted, tensors.positions)
        count = sum(row.supervised for row in batch)
        return summed_in_chunks(partial(sft_loss, total=count), logits, tensors.labels), none
    return pair_loss(engine, rows, loss, divergence, len(batch), place.device)


# The report


def _metrics(done: list[Step], plan: BatchPlan, place: Place, clock: Clock) -> dict[str, Any]:
    metrics: dict[str, Any] = {
        "device": place.device.type,
        "dtype": place.dtype_name,
        "ranks": place.ranks,
        "batch_size": plan.batch_size,
        "micro_batch_size": plan.micro_batch_size,
        "tokens_per_s": round(_rate(done[1:] or done), 1),  # the first takes memory and makes kernels
        "phase_s": clock.seconds,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        // (1 << 20 if sys.platform == "darwin" else 1 << 10),
    }
    if place.device.type == "cuda":
        metrics["peak_cuda_mib"] = torch.cuda.max_memory_allocated() // (1 << 20)
    if any(step.margin for step in done):
        tenth = len(_last_tenth(done))
        metrics["margin_first"] = _mean([step.margin for step in done[:tenth]])
        metrics["margin_last"] = _mean([step.margin for step in done[-tenth:]])
    return metrics


def _rate(steps: list[Step]) -> float:
    return sum(step.tokens for step in steps) / sum(step.seconds for step in steps)


def _last_tenth(done: list[Step]) -> list[Step]:
    return done[-math.ceil(len(done) / 10) :]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
