"""Holding the conversations that a stage still owes. Each is stored before the student learns from it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from meteor_agents.data.question_pool import QuestionPool
from meteor_agents.errors import BudgetReached, MeteorError
from meteor_agents.events import QuestionFinished, QuestionLate, StageFinished, StageStarted
from meteor_agents.pipeline.engine import Conversation, converse
from meteor_agents.pipeline.session import Session
from meteor_agents.traces import Outcome, Trace
from meteor_agents.training import Checkpoint


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage, the recipe that its traces are stored under, and its questions."""

    name: str
    recipe: str
    questions: QuestionPool


class Learner(Protocol):
    """Receives a stage's traces while its conversations are held, and may train the student on them."""

    @property
    def student(self) -> Checkpoint:
        """The current student."""
        ...

    async def begin(self) -> None:
        """Called before the first conversation."""
        ...

    async def take(self, trace: Trace) -> None:
        """Called with each trace, once it is stored. Conversations wait while this runs."""
        ...

    async def finish(self) -> None:
        """Called after the last conversation."""
        ...


@dataclass(frozen=True, slots=True)
class NoLearner:
    """The student is not trained while the conversations are held."""

    student: Checkpoint

    async def begin(self) -> None:
        """Nothing to do."""

    async def take(self, trace: Trace) -> None:
        """Nothing to do."""

    async def finish(self) -> None:
        """Nothing to do."""


async def hold(session: Session, stage: Stage, conversation: Conversation, learner: Learner) -> None:
    """Hold the conversations that the stage still owes.

    Raises `MeteorError` when a larger share of its questions than `fail_on` failed: all are stored, and the same command
    asks the failed ones again.
    """
    store, observer = session.store, session.observer
    finished = store.finished_stage(stage.name, stage.recipe) is not None
    owed = store.owed(stage.name, stage.recipe, stage.questions, retry_failed=session.settings.retry_failed)

    async def sink(trace: Trace) -> None:
        await store.add_trace(stage.recipe, trace)
        observer.on_event(QuestionFinished(stage.name, trace.question.id, trace.outcome.value, trace.tries))
        with suppress(BudgetReached):  # the next call raises it again; this trace is stored
            await learner.take(trace)

    count, reopens = len(stage.questions), bool(owed) or not finished
    async with recorded_stage(session, stage.name, stage.recipe, count, owed=len(owed), reopens=reopens) as ended:
        await learner.begin()
        await converse(
            owed,
            conversation,
            sink,
            stage=stage.name,
            window=session.window(),
            drain=session.drain,
            late=lambda question, error: observer.on_event(QuestionLate(stage.name, question.id, str(error))),
        )
        await learner.finish()
        ended(learner.student, _summary(session, stage))


@asynccontextmanager
async def recorded_stage(
    session: Session, name: str, recipe: str, count: int, *, owed: int, reopens: bool = True
) -> AsyncIterator[Callable[[Checkpoint, str], None]]:
    """Record a stage of `count` questions as running, then, once the body has called what this yields, as done.

    The body calls it with the checkpoint that the stage ended with and a summary. Without `reopens` the stage is done
    already and stays so meanwhile: a kill must not reopen it.
    """
    store, observer = session.store, session.observer
    results: list[tuple[Checkpoint, str]] = []
    started = time.monotonic()
    if reopens:
        await store.set_stage(name, recipe, "running", count, "", 0.0)
    observer.on_event(StageStarted(name, count, count - owed))
    try:
        yield lambda checkpoint, summary: results.append((checkpoint, summary))
    except BaseException:
        if reopens:
            seconds = time.monotonic() - started
            await asyncio.shield(store.set_stage(name, recipe, "stopped", count, "", seconds))
        raise
    seconds = time.monotonic() - started
    (checkpoint, summary), *_ = results
    await store.set_stage(name, recipe, "done", count, checkpoint.version, seconds)
    observer.on_event(StageFinished(name, seconds, summary))


def _summary(session: Session, stage: Stage) -> str:
    counts = session.store.outcome_counts(stage.name, stage.recipe, stage.questions)
    failed, total = counts[Outcome.FAILED], counts.total()
    if total and (failed == total or failed > total * session.settings.fail_on):
        first = session.store.first_error(stage.name, stage.recipe)
        how_many = f"all {total:,}" if failed == total else f"{failed:,} of {total:,}"
        allowed = "" if failed == total else f", more than fail_on ({session.settings.fail_on:.0%}) allows"
        raise MeteorError(f"{stage.name}: {how_many} questions failed{allowed}; the first: {first}")
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome])
