"""Stage 1: the conversations, and the fine-tuning on the teacher's answers."""

from __future__ import annotations

from collections.abc import Sequence

from meteor_agents.errors import UsageError
from meteor_agents.method.conversations import DISTILL
from meteor_agents.method.training_rows import TrainingRows, distillation_rows
from meteor_agents.pipeline.recipes import FINETUNE
from meteor_agents.pipeline.session import Session
from meteor_agents.pipeline.stage_calls import distilling
from meteor_agents.pipeline.stages.holding import NoLearner, Stage, hold, recorded_stage
from meteor_agents.pipeline.updating import Update, update
from meteor_agents.traces import Outcome, Trace
from meteor_agents.training import ChatExample, Checkpoint, Example, TrainingJob


async def distill(session: Session) -> None:
    """Hold stage 1's conversations; the untrained student writes the guidelines."""
    stage = Stage(DISTILL, session.recipes.distill(session.base), session.taken(session.settings.distill))
    await session.student.serve(session.base)
    await hold(session, stage, distilling(session.settings, session.cast), NoLearner(session.base))


async def finetune(session: Session, own_rows: Sequence[Example | ChatExample] = ()) -> Checkpoint:
    """Train question -> answer on every accepted trace of stage 1, or on the user's own rows; the resulting student.

    Raises `UsageError` without rows to train on, and without a trainer.
    """
    if session.trainer is None:
        raise UsageError("finetune only trains, so --no-train leaves it nothing to do")
    own = TrainingRows(list(own_rows), {}) if own_rows else None
    rows, left_out = own or distillation_rows(answered(session), session.cast.student.prompts)
    if not rows:
        raise UsageError(
            "finetune: this run has no accepted distill trace to train on; run `meteor distill` first, or name a "
            "file of your own with --data"
        )
    settings = session.settings
    job = TrainingJob(
        name=FINETUNE,
        rows=tuple(rows),
        start=session.base,
        settings=settings.training_for(settings.distill),
        keeps_optimizer=settings.refine_goes_on_from(settings.distill),
    )
    recipe = session.recipes.finetune(session.base, own_rows=job.data_hash() if own_rows else None)
    traces = () if own_rows else tuple(row.id for row in rows)
    async with recorded_stage(session, FINETUNE, recipe, len(rows), owed=len(rows)) as ended:
        wanted = Update(FINETUNE, recipe, 1, traces, job, session.base, left_out)
        checkpoint = await update(session, session.trainer, wanted)
        ended(checkpoint, f"{len(rows)} examples -> {checkpoint.version}")
    return checkpoint


def answered(session: Session) -> list[Trace]:
    """Stage 1's accepted traces, in the order of the questions."""
    ids = session.taken(session.settings.distill).ids
    traces = session.store.traces(DISTILL, session.recipes.distill(session.base), ids)
    return [trace for trace in traces if trace.outcome is Outcome.ACCEPTED]
