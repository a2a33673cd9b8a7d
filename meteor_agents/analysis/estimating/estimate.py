"""The cost of a command before anything is spent: calls, tokens and money by role.

Every stage's conversations are rehearsed (`rehearsal`) on questions spread over the data, and scaled up. The run
directory counts: settled conversations are not repeated, and stored replies are reused.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping

from meteor_agents.analysis.estimating.figures import Estimate
from meteor_agents.analysis.estimating.rehearsal import VERDICTS
from meteor_agents.analysis.estimating.rehearsed_measurement import RehearsedMeasurement
from meteor_agents.analysis.estimating.rehearsed_run import QUESTIONS, Given, RehearsedRun
from meteor_agents.messages import Question
from meteor_agents.method.conversations import DISTILL, REFINE, SELF_TRAIN
from meteor_agents.pipeline.checkpoints import LINEAGE
from meteor_agents.pipeline.gate import GATE
from meteor_agents.pipeline.recipes import FINETUNE
from meteor_agents.pipeline.stage_calls import distilling, greedy, refining, self_training
from meteor_agents.pipeline.stages.self_training import stage_of
from meteor_agents.training import Checkpoint


async def estimate(command: str, given: Given, *, questions: int = QUESTIONS) -> Estimate:
    """The remaining work of `meteor COMMAND`: run, distill, finetune, refine, self-train or evaluate."""
    rehearsed = RehearsedPipeline(RehearsedRun(given, questions))
    await rehearsed.commands[command]()
    return rehearsed.run.estimate()


class RehearsedPipeline:
    """The stages in the order of `pipeline.Pipeline`, without model calls or training."""

    def __init__(self, run: RehearsedRun) -> None:
        self.run = run
        self._given = run.given
        self._settings = run.given.settings
        self._measurement = RehearsedMeasurement(run)

    @property
    def commands(self) -> Mapping[str, Callable[[], Awaitable[object]]]:
        """Stage command -> its rehearsal."""
        return {
            "run": self.everything,
            "distill": self.distill,
            "finetune": self.finetune,
            "refine": lambda: self._alone(REFINE, self.refine),
            "self-train": lambda: self._alone(SELF_TRAIN, self.self_train),
            "evaluate": self.measure,
        }

    async def everything(self) -> None:
        """All stages, with an evaluation before, after each and at the end."""
        trains = self._given.trains
        await self._measurement.evaluate(self.run.student)
        owed = await self.distill()
        if trains:
            await self.finetune(again=bool(owed))
            await self._measurement.evaluate(self.run.student)
        for stage in (self.refine, self.self_train):
            await stage()
            if trains:
                await self._measurement.evaluate(self.run.student)
        await self._measurement.conclude(self.run.student)

    async def measure(self) -> None:
        """Every checkpoint of the lineage, then the comparisons between them."""
        for checkpoint in self._given.lineage.values():
            await self._measurement.evaluate(checkpoint)
        await self._measurement.conclude(list(self._given.lineage.values())[-1])

    async def distill(self) -> int:
        """Stage 1's conversations; the number of questions still to ask."""
        recipe = self.run.recipes.distill(self._given.base)
        self.run.rehearsal.asked_for = VERDICTS
        return await self.run.hold(
            DISTILL, recipe, self._settings.distill, distilling(self._settings, self.run.cast)
        )

    async def finetune(self, again: bool = False) -> None:
        """Stage 1's training, unless it is done and `again` is false."""
        done = self._given.lineage.get(FINETUNE)
        if done is not None and not again:
            self.run.student = done
            return
        await self._updates(1)

    async def refine(self) -> None:
        """Stage 2, with the number of updates that its remaining questions are likely to fill."""
        stage, given = self._settings.refine, self._given
        entered = self.run.student
        recipe = self.run.recipes.refine(entered, trains=given.trains) if entered else None
        rounds = given.records.rounds(REFINE, recipe) if recipe else []
        spoke = [round_.checkpoint for round_ in rounds if round_.promoted]
        weights = (*reversed(spoke), entered.version) if entered else ()
        self.run.rehearsal.asked_for = VERDICTS
        owed = await self.run.hold(REFINE, recipe, stage, refining(self._settings, self.run.cast), weights)
        if not given.trains:
            return
        if owed:
            accepted = owed * (1 - self.run.rehearsal.wrong_share**stage.iterations)
            await self._updates(math.ceil(accepted / stage.update_every))
        else:
            self.run.student = given.lineage.get(REFINE, entered)

    async def self_train(self) -> None:
        """Rehearse the turns of stage 3."""
        stage, given = self._settings.self_train, self._given
        for turn in range(1, stage.turns + 1):
            name = stage_of(turn)
            recipe = self.run.recipes.self_train(self.run.student, turn) if self.run.student else None
            self.run.rehearsal.asked_for = VERDICTS
            conversation = self_training(self._settings, self.run.cast, given.base, stage=name)
            owed = await self.run.hold(name, recipe, stage, conversation)
            if not given.trains:
                continue
            rounds = given.records.rounds(name, recipe) if recipe else []
            if owed or not rounds:
                await self._updates(1 if owed else 0)
            elif rounds[-1].promoted:
                self.run.student = Checkpoint(version=rounds[-1].checkpoint, path=given.base.path)

    async def _alone(self, stage: str, rehearse: Callable[[], Awaitable[None]]) -> None:
        """One stage, begun with the newest checkpoint before it."""
        earlier = LINEAGE[: LINEAGE.index(stage)]
        found = [self._given.lineage[label] for label in earlier if label in self._given.lineage]
        self.run.student = found[-1] if found else self._given.base
        await rehearse()

    async def _updates(self, number: int) -> None:
        """`number` updates: the gate asks the current student, then each candidate."""
        if not number:
            return
        run, gate, sampling = self.run, self._given.questions.gate, greedy(self._settings)
        run.rehearsal.asked_for = VERDICTS

        async def asked(question: Question) -> None:
            await run.cast.student.attempt(question, stage=GATE, sampling=sampling)

        if run.student:  # its replies are asked for only if they are not stored
            run.rehearsal.weights = (run.student.version,)
            await run.rehearse(gate, asked)
        run.rehearsal.weights = ()
        await run.rehearse(gate, asked, times=number)
        run.student = None
