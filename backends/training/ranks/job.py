"""One training job on one rank.

1. Read the job, encode its rows, plan its batches: every rank does the same, so each knows the whole plan.
2. Load the start checkpoint in the compute format, add adapters if asked, hand it to DeepSpeed.
3. For each batch: this rank's micro-batches forward and backward, one optimizer step, one line of progress.
4. Gather the float32 masters; rank 0 adds what changed to the start checkpoint, writes the new one and the report.
"""

from __future__ import annotations

import gc

from meteor_agents.backends.local.freed_memory import forget_peak_memory, give_back_freed_memory
from meteor_agents.backends.training.config import job_config
from meteor_agents.backends.training.ranks.batching.batches import BatchPlan
from meteor_agents.backends.training.ranks.batching.encoding import Tokenizers, encode_rows
from meteor_agents.backends.training.ranks.batching.preference_batches import with_reference
from meteor_agents.backends.training.ranks.model import load_model, open_engine
from meteor_agents.backends.training.ranks.optimizer_state import load_optimizer, save_optimizer
from meteor_agents.backends.training.ranks.progress import Clock, opening, report
from meteor_agents.backends.training.ranks.rank import Rank
from meteor_agents.backends.training.ranks.steps import train_steps
from meteor_agents.backends.training.ranks.trained_weights import change_of, gather_masters, write_trained
from meteor_agents.backends.training.work_folder import WorkFolder
from meteor_agents.training import PairwiseLoss, optimizer_beside
from meteor_agents.weight_files import is_float32


def train(work: WorkFolder, tokenizers: Tokenizers, *, first: bool = True) -> None:
    """Do the job of a work folder: its checkpoint, optimizer state and, last, its report are there afterwards.

    `first` says that it is the process's first job. Raises `MeteorError`, on every rank alike.
    """
    clock = Clock(first=first)
    forget_peak_memory()
    with clock("rows"):
        job, preset = work.read()
        rank = Rank.of_this_process(job.settings)
        encoding = encode_rows(tokenizers.of(job.start.path), job.rows, job.settings.max_length)
        plan = BatchPlan.of(len(encoding.rows), job.settings, rank.count)
    if rank.index == 0:
        line = opening(job, rank, plan, encoding.too_long)
        print(f"{job.name}: {line}", flush=True)
        work.append_progress({"kind": "note", "text": line})
    with clock("model"):
        longest = max(row.length for row in encoding.rows)
        model = load_model(job, rank, job.settings.max_length if job.settings.packing else longest)
    with clock("deepspeed"):
        config = job_config(
            preset,
            dtype=rank.dtype_name,
            micro_batch_size=plan.micro_batch_size,
            accumulation=plan.accumulation,
            ranks=rank.count,
            max_grad_norm=job.settings.max_grad_norm,
            accelerator=rank.has_accelerator,
        )
        engine = open_engine(model, config, job.settings, rank)
        exact = job.carries_optimizer and load_optimizer(engine, rank, optimizer_beside(job.start.path))
    rows = encoding.rows
    if isinstance(job.loss, PairwiseLoss):
        with clock("reference"):
            rows = with_reference(engine, rows, job.loss, plan.micro_batch_size, rank.device)
    with clock("steps"):
        done = train_steps(engine, plan, rows, job, rank, work)
    with clock("save"):
        if job.keeps_optimizer:
            save_optimizer(engine, rank, work.optimizer, masters=not is_float32(job.start.path))
        masters = gather_masters(engine, rank)
        change = change_of(model, masters, None if exact else rank.dtype)
        skipped = engine.skipped_steps
        engine.destroy()
        del engine, model
        gc.collect()  # DeepSpeed's engine holds itself in circles
        give_back_freed_memory()  # before as much again is taken for the new checkpoint
        if rank.index == 0:
            write_trained(job.start.path, change, work.checkpoint)
    if rank.index == 0:
        counts = {"rows_used": len(encoding.rows), "rows_too_long": encoding.too_long, "skipped": skipped}
        work.write_report(report(done, plan, rank, clock, **counts))
