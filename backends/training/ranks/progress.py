"""What a job tells while it trains and when it is done: its steps, its seconds, its report."""

from __future__ import annotations

import math
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch

from meteor_agents.backends.training.ranks.batching.batches import BatchPlan
from meteor_agents.backends.training.work_folder import WorkFolder
from meteor_agents.training import TrainingJob, TrainingReport

if TYPE_CHECKING:
    from meteor_agents.backends.training.ranks.rank import Rank


_Value = TypeVar("_Value")


class Step(NamedTuple):
    """One optimizer step, over all ranks."""

    loss: float
    tokens: int
    """Tokens in the batch, including prompts, without padding."""
    margin: float | None
    """Mean per-token log-likelihood of the chosen replies less that of the rejected ones. None for a batch without
    preference pairs."""
    seconds: float
    rate: float
    """The learning rate of the step."""


class Clock:
    """Measures where a job's seconds go. A process's first job also counts the time since the process began (Linux)."""

    def __init__(self, *, first: bool) -> None:
        self._began = time.perf_counter()
        self.seconds: dict[str, float] = {"imports": _process_age_s() if first else 0.0}
        """Phase -> seconds."""

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Measure the body of a `with` statement as that phase."""
        began = time.perf_counter()
        yield
        self.seconds[phase] = round(time.perf_counter() - began, 3)

    def total(self) -> float:
        """Seconds since the job began, and those of the imports."""
        return round(self.seconds["imports"] + time.perf_counter() - self._began, 3)


def _process_age_s() -> float:
    try:
        started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0.0
    return round(time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK"), 3)


class Board:
    """Writes scalars to TensorBoard files in `folder`. With `folder` None it writes nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._writer: Any = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder))

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, step: int, **scalars: float) -> None:
        """Write each scalar under its name for that step, counted from 1."""
        if self._writer is not None:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)


def opening(job: TrainingJob, rank: Rank, plan: BatchPlan, too_long: int) -> str:
    """What a job is about to do, as one line."""
    steps = plan.steps_per_epoch * job.settings.epochs
    rows = len(job.rows) - too_long
    left_out = f" ({too_long} longer than {job.settings.max_length} tokens left out)" if too_long else ""
    return (
        f"{rows} rows{left_out}, {steps} steps of {plan.batch_size} as {plan.ranks} ranks x {plan.accumulation} x "
        f"{plan.micro_batch_size}, {rank.dtype_name} on {rank.device.type}"
    )


def tell(work: WorkFolder, board: Board, done: list[Step], steps: int) -> None:
    """Write the last of the steps that are done, of `steps` in all, to the job's progress and to the board."""
    step = done[-1]
    scalars = {"loss": step.loss, "learning_rate": step.rate, "tokens_per_s": step.tokens / step.seconds}
    left = _mean([each.seconds for each in done]) * (steps - len(done))
    work.append_progress({"kind": "step", "step": len(done), "steps": steps, **scalars, "seconds_left": left})
    board.add(len(done), **scalars)


def report(
    done: list[Step], plan: BatchPlan, rank: Rank, clock: Clock, *, rows_used: int, rows_too_long: int, skipped: int
) -> TrainingReport:
    """What the job did. `skipped` counts steps that DeepSpeed left out because a float16 gradient overflowed."""
    return TrainingReport(
        loss=_mean([step.loss for step in _last_tenth(done)]),
        steps=len(done),
        tokens=sum(step.tokens for step in done),
        seconds=clock.total(),
        rows_used=rows_used,
        rows_too_long=rows_too_long,
        metrics=_metrics(done, plan, rank, clock) | {"skipped_steps": skipped},
    )


def _metrics(done: list[Step], plan: BatchPlan, rank: Rank, clock: Clock) -> dict[str, Any]:
    metrics: dict[str, Any] = {
        "device": rank.device.type,
        "dtype": rank.dtype_name,
        "ranks": rank.count,
        "batch_size": plan.batch_size,
        "micro_batch_size": plan.micro_batch_size,
        "tokens_per_s": round(_rate(done[1:] or done), 1),  # the first step allocates memory and compiles kernels
        "phase_s": clock.seconds,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        // (1 << 20 if sys.platform == "darwin" else 1 << 10),
    }
    if rank.device.type == "cuda":
        metrics["peak_cuda_mib"] = torch.cuda.max_memory_allocated() // (1 << 20)
    if margins := [step.margin for step in done if step.margin is not None]:
        tenth = len(_last_tenth(margins))
        metrics["margin_first"] = _mean(margins[:tenth])
        metrics["margin_last"] = _mean(margins[-tenth:])
    return metrics


def _rate(steps: list[Step]) -> float:
    return sum(step.tokens for step in steps) / sum(step.seconds for step in steps)


def _last_tenth(done: list[_Value]) -> list[_Value]:
    return done[-math.ceil(len(done) / 10) :]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
