"""Stage 3: turns of preference pairs decoded by the student alone, an update after each, and when to stop."""

from __future__ import annotations

from collections import Counter

from meteor_agents.messages import Status
from meteor_agents.method.conversations import SELF_TRAIN
from meteor_agents.method.training_rows import self_training_rows
from meteor_agents.pipeline.gate import ask_gate
from meteor_agents.pipeline.session import Session
from meteor_agents.pipeline.stage_calls import self_training
from meteor_agents.pipeline.stages.holding import NoLearner, Stage, hold
from meteor_agents.pipeline.updating import Update, update
from meteor_agents.traces import Outcome, Trace
from meteor_agents.training import Checkpoint, TrainingJob
from meteor_agents.weight_files import parameters


class SelfTraining:
    """The turns of stage 3. Each turn's pairs are decoded by the student that the turn before ended with."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._settings = session.settings.self_train
        self.held: list[tuple[str, str]] = []
        """Stage and recipe of each turn's conversations, so far."""

    async def train(self, student: Checkpoint) -> Checkpoint:
        """Hold all turns, beginning with `student`; the student after the last one."""
        stops_early = self._settings.stop_early and self._session.trainer is not None
        best = await self._right(student) if stops_early else 0
        for turn in range(1, self._settings.turns + 1):
            entered, student = student, await self._turn(turn, student)
            if not stops_early:
                continue
            right = await self._right(student)
            if right <= best:
                self._session.note(
                    f"{SELF_TRAIN}: stopped after turn {turn} of {self._settings.turns}: {right} gate questions right, "
                    f"{best} before"
                )
                return student if right == best else entered
            best = right
        return student

    async def _turn(self, turn: int, student: Checkpoint) -> Checkpoint:
        session = self._session
        name, recipe = stage_of(turn), session.recipes.self_train(student, turn)
        stage = Stage(name, recipe, session.taken(self._settings))
        conversation = self_training(
            session.settings, session.cast, session.base, stage=name, parameters=parameters(session.base.path)
        )
        self.held.append((name, recipe))
        await session.student.serve(student)
        await hold(session, stage, conversation, NoLearner(student))
        traces = session.store.traces(name, recipe, stage.questions.ids)
        session.note(f"{name}: {summary(traces)}")
        if session.trainer is None:
            return student
        pairs, left_out = self_training_rows(traces, session.cast.student.prompts)
        if not pairs:
            session.note(f"{SELF_TRAIN}: no pair had a preference; the student is not trained")
            return student
        job = TrainingJob(
            name=f"{SELF_TRAIN}-{turn:03d}",
            rows=tuple(pairs),
            start=student,
            settings=session.settings.training_for(self._settings),
            loss=self._settings.pairwise,
        )
        wanted = Update(name, recipe, turn, tuple(pair.id for pair in pairs), job, student, left_out)
        return await update(session, session.trainer, wanted)

    async def _right(self, student: Checkpoint) -> int:
        """Gate questions that this student answers correctly. Its replies at its own update's gate are reused."""
        await self._session.student.serve(student)
        results = await ask_gate(self._session)
        return sum(result.status is Status.CORRECT for result in results.values())


def stage_of(turn: int) -> str:
    """The name of a turn's conversations."""
    return SELF_TRAIN if turn == 1 else f"{SELF_TRAIN}-{turn}"


def summary(traces: list[Trace]) -> str:
    """Pairs kept, pairs dropped by reason, and the FLOPs of the two sides, in words."""
    lineages = [trace.lineage for trace in traces if trace.lineage is not None]
    dropped = Counter(lineage.dropped.value for lineage in lineages if lineage.dropped is not None)
    reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
    kept = sum(trace.outcome is Outcome.ACCEPTED for trace in traces)
    said = f"{kept} pairs of {len(traces)} questions" + (f"; dropped: {reasons}" if reasons else "")
    if lineages:
        low, high = ([getattr(lineage, side).flops for lineage in lineages] for side in ("low", "high"))
        if None not in low and None not in high:
            said += f"; {_flops(low)} low, {_flops(high)} high"
    return said


def _flops(flops: list[float]) -> str:
    return f"{sum(flops):.2g} FLOPs (estimated)"
