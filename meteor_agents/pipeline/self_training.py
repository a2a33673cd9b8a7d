"""Stage 3: turns of pairs that the student decodes by itself, an update after each, and when to stop."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from meteor_agents.events import Note
from meteor_agents.messages import Status
from meteor_agents.method import conversations
from meteor_agents.method.agents import Judge, Student
from meteor_agents.method.conversations import SELF_TRAIN
from meteor_agents.method.preference_pairs import PairRules
from meteor_agents.method.strategies import open_strategy
from meteor_agents.method.training_rows import self_training_rows
from meteor_agents.settings.settings import Settings
from meteor_agents.traces import Outcome, Trace
from meteor_agents.training import Checkpoint, TrainingJob
from meteor_agents.weight_files import parameters

if TYPE_CHECKING:
    from meteor_agents.pipeline.pipeline import Pipeline


class SelfTraining:
    """The turns of stage 3. Each turn's pairs are decoded by the student that the turn before ended with."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._settings = pipeline.settings.self_train
        self.held: list[tuple[str, str]] = []
        """Stage and recipe of each turn's conversations, so far."""

    async def train(self, student: Checkpoint) -> Checkpoint:
        """All turns, from the student that enters the stage; the student that leaves it."""
        stops_early = self._settings.stop_early and self._pipeline.trainer is not None
        best = await self._right(student) if stops_early else 0
        for turn in range(1, self._settings.turns + 1):
            entered, student = student, await self._turn(turn, student)
            if not stops_early:
                continue
            right = await self._right(student)
            if right <= best:
                self._note(
                    f"{SELF_TRAIN}: stopped after turn {turn} of {self._settings.turns}: {right} gate questions right, "
                    f"{best} before"
                )
                return student if right == best else entered
            best = right
        return student

    async def _turn(self, turn: int, student: Checkpoint) -> Checkpoint:
        pipeline, stage = self._pipeline, self._settings
        name = stage_of(turn)
        recipe = pipeline.recipes.self_train(student, turn)
        questions = pipeline.taken(stage)
        low, high = (
            open_strategy(given, pipeline.settings.student.sampling, pipeline.cast.judge, pipeline.base)
            for given in (stage.low, stage.high)
        )
        rules = pair_rules(pipeline.settings, pipeline.cast.student, pipeline.cast.judge)
        size = parameters(pipeline.base.path)
        self.held.append((name, recipe))
        await pipeline.serve(student)
        await pipeline.hold(
            name,
            recipe,
            questions,
            lambda question: conversations.self_train(
                question, pipeline.cast.student, low=low, high=high, rules=rules, parameters=size, stage=name
            ),
            current=lambda: student,
        )
        traces = pipeline.store.traces(name, recipe, questions.ids)
        self._note(f"{name}: {summary(traces)}")
        if pipeline.trainer is None:
            return student
        pairs, left_out = self_training_rows(traces, pipeline.cast.student)
        if not pairs:
            self._note(f"{SELF_TRAIN}: no pair had a preference; the student stays as it is")
            return student
        return await pipeline.update(
            name,
            recipe,
            number=turn,
            traces=tuple(pair.id for pair in pairs),
            job=TrainingJob(
                name=f"{SELF_TRAIN}-{turn:03d}",
                rows=tuple(pairs),
                start=student,
                settings=pipeline.settings.training_for(stage),
                loss=stage.pairwise,
            ),
            current=student,
            left_out=left_out,
        )

    async def _right(self, student: Checkpoint) -> int:
        """Gate questions that this student gets right; what it said at the gate of its own update is not asked again."""
        await self._pipeline.serve(student)
        results = await self._pipeline.gate_results()
        return sum(result.status is Status.CORRECT for result in results.values())

    def _note(self, sentence: str) -> None:
        self._pipeline.observer.on_event(Note(sentence))


def stage_of(turn: int) -> str:
    """The name of a turn's conversations."""
    return SELF_TRAIN if turn == 1 else f"{SELF_TRAIN}-{turn}"


def pair_rules(settings: Settings, student: Student, judge: Judge) -> PairRules:
    """What the settings of stage 3 ask of a pair."""
    stage = settings.self_train
    verify: Judge | None = None
    if stage.verify:
        verify = student.as_judge() if stage.verify == "self" else judge
    return PairRules(judge, stage.near_equal, stage.max_length_ratio, verify)


def summary(traces: list[Trace]) -> str:
    """Pairs kept, pairs dropped by reason, and what the two sides took."""
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
