"""Stage 2: judged refinement, with an update of the student each time the buffer of accepted traces is full.

`mode: sync`: the worker whose trace fills the buffer makes the update, and the others wait for it. `mode: overlap`: a
separate task makes it, and conversations continue with the old weights until these are `staleness` rounds behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

from meteor_agents.errors import BudgetReached, MeteorError, UsageError
from meteor_agents.method.conversations import REFINE
from meteor_agents.method.training_rows import TrainingRows, distillation_rows, refinement_rows
from meteor_agents.pipeline.engine import Interrupted
from meteor_agents.pipeline.gate import GATE
from meteor_agents.pipeline.session import Session
from meteor_agents.pipeline.stage_calls import refining
from meteor_agents.pipeline.stages.distilling import answered
from meteor_agents.pipeline.stages.holding import Stage, hold
from meteor_agents.pipeline.updating import Update, update
from meteor_agents.traces import TRAINS, Trace
from meteor_agents.training import Checkpoint, TrainingJob, TrainingRow


async def refine(session: Session) -> Checkpoint:
    """Hold stage 2's conversations and make its updates; the student after the last one."""
    entered = session.latest(before=REFINE)
    recipe = session.recipes.refine(entered, trains=session.trainer is not None)
    stage = Stage(REFINE, recipe, session.taken(session.settings.refine))
    updates = Updates(session, recipe, entered)
    await session.student.serve(updates.student)
    async with updates:
        await hold(session, stage, refining(session.settings, session.cast), updates)
    return updates.student


class Updates:
    """Stage 2's buffer: takes finished traces, and makes one update of the student for every K accepted ones.

    Its state is read back from the store, so a resumed stage continues with the same buffer and the same student. Raises
    `MeteorError` when the checkpoint of the last promoted round is missing.
    """

    def __init__(self, session: Session, recipe: str, entered: Checkpoint) -> None:
        self._session = session
        self._recipe = recipe
        self._entered = entered
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._round_ended = asyncio.Event()
        self.student = entered
        rounds = session.store.rounds(REFINE, recipe)
        promoted = [round_ for round_ in rounds if round_.promoted]
        if promoted:
            folder = session.folder / promoted[-1].checkpoint
            if not folder.exists():
                raise MeteorError(
                    f"{folder} is missing, which round {promoted[-1].round} of this run wrote; put it back, "
                    "or start over with --fresh"
                )
            self.student = Checkpoint(version=promoted[-1].checkpoint, path=folder)
        self._rounds = len(rounds)
        trained = {id_ for round_ in rounds for id_ in round_.traces}
        outcomes = session.store.outcomes(REFINE, recipe)
        accepted = [id_ for id_, outcome in outcomes if outcome in TRAINS]
        self._trained = [id_ for id_ in accepted if id_ in trained]
        self._buffer = [id_ for id_ in accepted if id_ not in trained]
        self._versions = [entered.version, *(round_.checkpoint for round_ in promoted)]
        self._allow_reuse()

    async def begin(self) -> None:
        """Make the update that a killed run still owed, before another conversation is held with the old weights."""
        async with self._lock:
            await self._update_while_full()

    async def take(self, trace: Trace) -> None:
        """Take a finished trace, and make the update if it fills the buffer. The other workers wait here meanwhile.

        In mode overlap this returns at once, unless the weights are as stale as they may be. Raises what an update raised.
        """
        if self._overlaps:
            if trace.outcome in TRAINS:
                self._buffer.append(trace.question.id)
            await self._update_beside()
            return
        async with self._lock:
            if trace.outcome in TRAINS:
                self._buffer.append(trace.question.id)
            await self._update_while_full()

    async def finish(self) -> None:
        """Make a last update at the end of the stage, if the buffer is at least half full."""
        if self._task is not None:
            await self._task
            self._task = None
        async with self._lock:
            await self._update_while_full()
            if self._session.trainer is not None and len(self._buffer) * 2 >= self._size:
                await self._update(len(self._buffer))
        await self._settle_on_the_best()

    async def _settle_on_the_best(self) -> None:
        """End the stage with the student that the gate found best, the latest of several; it may be the one that entered."""
        rounds = self._session.store.rounds(REFINE, self._recipe)
        graded = [(round_, round_.report["gate"]) for round_ in rounds if "gate" in round_.report]
        if not graded:
            return
        right = {self._entered.version: graded[0][1]["before"]}
        right |= {round_.checkpoint: gate["right"] for round_, gate in graded if round_.promoted}
        best = max(reversed(right), key=lambda version: right[version])
        if best == self.student.version or self.student.version not in right:
            return
        self._session.note(
            f"refine: kept {best} ({right[best]} gate questions right), not its last update ({right[self.student.version]})"
        )
        known = best == self._entered.version
        self.student = self._entered if known else Checkpoint(version=best, path=self._session.folder / best)
        await self._session.student.serve(self.student)

    async def __aenter__(self) -> Updates:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End an update that is under way: finish it when the run was asked to stop, else cancel it."""
        if self._task is None or self._task.done():
            return
        if not isinstance(error, Interrupted | BudgetReached):
            self._task.cancel()
        with suppress(asyncio.CancelledError, BudgetReached):
            await self._task

    @property
    def _overlaps(self) -> bool:
        return self._session.settings.refine.mode == "overlap" and self._session.trainer is not None

    @property
    def _ahead(self) -> int:
        """Full buffers that the current weights have not been trained on."""
        return len(self._buffer) // self._size

    async def _update_beside(self) -> None:
        if self._task is not None and self._task.done():
            self._task.result()
            self._task = None
        if self._ahead and self._task is None:
            self._task = asyncio.create_task(self._update_all_beside())
        if not self._too_stale:
            return
        async with self._session.student.only(GATE):
            while self._too_stale and self._task is not None and not self._task.done():
                await self._round_ended.wait()
        if self._task is not None and self._task.done():
            self._task.result()

    @property
    def _too_stale(self) -> bool:
        return self._ahead > self._session.settings.refine.staleness

    async def _update_all_beside(self) -> None:
        try:
            while self._ahead:
                await self._update(self._size)
                self._tell_waiting()
        finally:
            self._tell_waiting()

    def _tell_waiting(self) -> None:
        self._round_ended.set()
        self._round_ended = asyncio.Event()

    @property
    def _size(self) -> int:
        return self._session.settings.refine.update_every

    async def _update_while_full(self) -> None:
        while self._session.trainer is not None and len(self._buffer) >= self._size:
            await self._update(self._size)

    async def _update(self, size: int) -> None:
        session, stage = self._session, self._session.settings.refine
        assert session.trainer is not None
        ids = self._buffer[:size]
        converted = self._converted([*self._trained, *ids] if stage.data == "cumulative" else ids)
        start = {"previous": self.student, "base": self._entered, "pretrained": session.base}[stage.init]
        number = self._rounds + 1
        job = TrainingJob(
            name=f"{REFINE}-{number:03d}",
            rows=(*converted.rows, *self._replayed(len(converted.rows), number)),
            start=start,
            settings=session.settings.training_for(stage),
            loss=stage.pairwise if stage.conversion == "pairs" else None,
            carries_optimizer=self._goes_on_from(start),
            keeps_optimizer=session.settings.refine_goes_on_from(stage),
        )
        wanted = Update(
            REFINE, self._recipe, number, tuple(ids), job, self.student, converted.left_out, self._task is not None
        )
        self.student = await update(session, session.trainer, wanted)
        if self.student.version == job.version():
            self._versions.append(self.student.version)
            self._allow_reuse()
        self._rounds = number
        self._trained += ids
        self._buffer = self._buffer[size:]

    def _allow_reuse(self) -> None:
        """Reuse stored replies of every weights version that was the student in this stage."""
        self._session.student.may_reuse(REFINE, tuple(reversed(self._versions)))

    def _converted(self, ids: Sequence[str]) -> TrainingRows:
        """The training rows of these traces, in the order of their ids, so that equal sets make equal data."""
        traces = self._session.store.traces(REFINE, self._recipe, sorted(ids))
        return refinement_rows(traces, self._session.cast.student.prompts, self._session.settings.refine.conversion)

    def _goes_on_from(self, start: Checkpoint) -> bool:
        """Whether the optimizer's state after `start` was kept for this update: by stage 1, or by the last update."""
        settings = self._session.settings
        if start.version == self._session.base.version:
            return False
        return settings.refine_goes_on_from(settings.distill if start == self._entered else settings.refine)

    def _replayed(self, examples: int, number: int) -> list[TrainingRow]:
        """A rotating share (`refine.replay`) of stage 1's examples. Raises `UsageError` when there are none."""
        share = self._session.settings.refine.replay
        if not share:
            return []
        known = distillation_rows(answered(self._session), self._session.cast.student.prompts).rows
        if not known:
            raise UsageError(
                "refine.replay repeats examples of stage 1, and this run has none; run `meteor distill` first"
            )
        count = len(known) if share == "all" else round(examples * share)
        start = (number - 1) * count
        chosen = [known[(start + i) % len(known)] for i in range(min(count, len(known)))]
        return [row.model_copy(update={"id": f"replay-{row.id}"}) for row in chosen]
