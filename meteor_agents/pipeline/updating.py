"""One update of the student as a transaction: train, ask the gate, record. A kill at any moment leaves the old student."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field

from meteor_agents.errors import ModelError, NoCallSucceeds, NothingToTrainError, TrainingError
from meteor_agents.evaluation.results import GradedReply
from meteor_agents.events import TrainingNote, UpdateFinished
from meteor_agents.pipeline.checkpoints import needed, prune
from meteor_agents.pipeline.gate import GATE, Gate, ask_gate, judge_candidate, speaks_unlike
from meteor_agents.pipeline.session import Session
from meteor_agents.store.stage_records import Round
from meteor_agents.training import Checkpoint, Trainer, TrainingJob, TrainingReport
from meteor_agents.weight_files import damaged_weights


@dataclass(frozen=True, slots=True)
class Update:
    """A round of training that is about to be made."""

    stage: str
    recipe: str
    number: int
    """Counted from 1 within the stage."""
    traces: tuple[str, ...]
    """Ids of the questions whose traces it learns from."""
    job: TrainingJob
    current: Checkpoint
    """The current student, which stays if the new one is not promoted."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Reason why traces gave no training row -> their number."""
    overlaps: bool = False
    """Conversations continue meanwhile, and wait only while the gate's questions are answered."""

    @property
    def candidate(self) -> str:
        """The new weights version: a hash of everything that decides the weights."""
        return self.job.version()


async def update(session: Session, trainer: Trainer, wanted: Update) -> Checkpoint:
    """Train, ask the gate, record the round; the student to continue with.

    Unless `wanted.overlaps`, conversations wait meanwhile: the trainer has the machine to itself, and a candidate that is
    not promoted has never replied in one. A checkpoint folder is complete when it has its name, so after a kill between
    training and recording, the training is not repeated. Without a row to train on, the round is recorded as not
    promoted. Raises `TrainingError`, `NoCallSucceeds`.
    """
    candidate = Checkpoint(version=wanted.candidate, path=session.folder / wanted.candidate)
    if (known := _made_before(session, wanted, candidate)) is not None:
        return known
    if wanted.left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in wanted.left_out.items())
        session.observer.on_event(TrainingNote(wanted.job.name, f"traces left out: {reasons}"))
    started = time.monotonic()
    report: TrainingReport | None = None
    async with nullcontext() if wanted.overlaps else session.student.only(GATE):
        async with session.student.only(GATE):
            before = await ask_gate(session)
        try:
            report = await _train(session, trainer, wanted, candidate)
            async with session.student.only(GATE):
                gate = await _pass_gate(session, wanted, candidate, before)
        except NothingToTrainError as error:
            gate = Gate(False, str(error))
    await _record(session, wanted, gate, report)
    loss, seconds = report.loss if report else None, time.monotonic() - started
    session.observer.on_event(
        UpdateFinished(wanted.job.name, len(wanted.job.rows), loss, seconds, gate.promoted, gate.reason)
    )
    student = candidate if gate.promoted else wanted.current
    await _prune(session, student)
    return student


def _made_before(session: Session, wanted: Update, candidate: Checkpoint) -> Checkpoint | None:
    """The student after this round, if an earlier process recorded it."""
    for done in session.store.rounds(wanted.stage, wanted.recipe):
        same = done.round == wanted.number and done.checkpoint == candidate.version
        if same and (candidate.path.exists() or not done.promoted):
            return candidate if done.promoted else wanted.current
    return None


async def _train(
    session: Session, trainer: Trainer, wanted: Update, candidate: Checkpoint
) -> TrainingReport | None:
    """Write the candidate's folder, and return the report; None if the folder exists already."""
    if not wanted.job.rows:
        raise NothingToTrainError(f"no rows to train on: all {len(wanted.traces)} traces were left out")
    if candidate.path.exists():
        if damaged := await asyncio.to_thread(damaged_weights, candidate.path):
            raise TrainingError(
                f"{wanted.job.name}: {candidate.path}, trained before this run was interrupted, cannot be used: {damaged}; "
                "put the file back, or remove the folder and run the same command again, which trains it anew"
            )
        return None
    if not wanted.overlaps:
        await session.student.free_memory()
    return await trainer.train(wanted.job, candidate.path, session.observer.on_event)


async def _pass_gate(
    session: Session, wanted: Update, candidate: Checkpoint, before: Mapping[str, GradedReply]
) -> Gate:
    """Serve the candidate and decide whether it stays: it loads, answers, stops, and is not worse."""
    if unlike := await asyncio.to_thread(speaks_unlike, wanted.job.start.path, candidate.path):
        return Gate(False, unlike)
    try:
        await session.student.serve(candidate)
        gate = judge_candidate(before, await ask_gate(session), free=session.cast.judge.free)
    except NoCallSucceeds:
        raise
    except ModelError as error:
        gate = Gate(False, f"does not load or answer: {error}")
    if not gate.promoted:
        await session.student.serve(wanted.current)
    return gate


async def _record(session: Session, wanted: Update, gate: Gate, report: TrainingReport | None) -> None:
    more: dict[str, object] = {"left_out": dict(wanted.left_out)} if wanted.left_out else {}
    if gate.right is not None:
        more["gate"] = dict(zip(("before", "right"), gate.right, strict=True))
    round_ = Round(
        stage=wanted.stage,
        round=wanted.number,
        traces=wanted.traces,
        data_hash=wanted.job.data_hash(),
        start=wanted.job.start.version,
        checkpoint=wanted.candidate,
        promoted=gate.promoted,
        reason=gate.reason,
        report={**(report.model_dump(mode="json") if report else {}), **more},
    )
    await session.store.add_round(wanted.recipe, round_)


async def _prune(session: Session, student: Checkpoint) -> None:
    """Remove checkpoints that are no longer needed."""
    keep = needed(session.store) | {checkpoint.version for checkpoint in (student, *session.lineage.values())}
    gone = await asyncio.to_thread(prune, session.folder, keep, session.settings.checkpoints.keep)
    if gone:
        session.note(f"checkpoints: removed {', '.join(gone)}, which nothing starts from any more")
