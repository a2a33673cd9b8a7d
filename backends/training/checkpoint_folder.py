"""Checkpoint folders around a job: what must be in order before it, and how its results get their names after it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from meteor_agents.backends.training.config import load_config
from meteor_agents.backends.training.work_folder import WorkFolder
from meteor_agents.errors import TrainingError
from meteor_agents.training import TrainingJob, TrainingReport, optimizer_beside
from meteor_agents.weight_files import damaged_weights, missing_parts, record_written


def prepare(work: WorkFolder, folder: Path, job: TrainingJob) -> None:
    """Write the job's files to its work folder. Raises `TrainingError`, `SettingsError` for a job that cannot be done."""
    config = load_config(job.settings.config)
    if folder.exists():
        raise TrainingError(f"{job.name}: {folder} exists already; a checkpoint is never overwritten")
    _check_start(job)
    shutil.rmtree(work.path, ignore_errors=True)  # left by a run that was killed
    work.write(job, config)


def _check_start(job: TrainingJob) -> None:
    start = job.start.path
    missing = missing_parts(start)
    if missing:
        raise TrainingError(f"{job.name}: the start checkpoint {start} lacks {', '.join(missing)}")
    if trouble := damaged_weights(start):
        raise TrainingError(
            f"{job.name}: the start checkpoint {start} cannot be trained from: {trouble}; put the file back, or remove the "
            "folder and run the same command again, which trains it anew"
        )
    if job.carries_optimizer:
        _check_optimizer(job, optimizer_beside(start))


def _check_optimizer(job: TrainingJob, folder: Path) -> None:
    trouble = damaged_weights(folder) if folder.is_dir() else "it is missing"
    if trouble:
        raise TrainingError(
            f"{job.name}: the optimizer state {folder}, from which this update goes on: {trouble}; put it back, or begin "
            "each update with a fresh optimizer: refine.training.optimizer_state: reset"
        )


def finish(work: WorkFolder, folder: Path, job: TrainingJob, log: Path) -> TrainingReport:
    """Give the results of a finished job their names, the checkpoint last. Raises `TrainingError` if it is incomplete."""
    missing = missing_parts(work.checkpoint)
    if missing:
        raise TrainingError(f"{job.name}: the new checkpoint lacks {', '.join(missing)}; log: {log}")
    if job.keeps_optimizer:
        shutil.rmtree(optimizer_beside(folder), ignore_errors=True)  # left by a run that was killed before it published
        record_written(work.optimizer)
        publish(work.optimizer, optimizer_beside(folder))
    record_written(work.checkpoint)
    publish(work.checkpoint, folder)
    return TrainingReport.model_validate_json(work.report.read_text(encoding="utf-8"))


def publish(written: Path, folder: Path) -> None:
    """Rename a complete folder, in one step that a power cut cannot halve."""
    for file in written.iterdir():
        _flush(file)
    _flush(written)
    written.rename(folder)
    _flush(folder.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
