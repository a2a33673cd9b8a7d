"""The stages of a run in order. Everything resumes.

Traces, rounds and results are stored under the stage's recipe (`recipes`), so an unchanged run finds all its work again
and an edited one finds whatever the edit leaves valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from meteor_agents.method.conversations import REFINE, SELF_TRAIN
from meteor_agents.pipeline.checkpoints import BASE, LINEAGE
from meteor_agents.pipeline.recipes import FINETUNE
from meteor_agents.pipeline.session import Session
from meteor_agents.pipeline.stages import distilling
from meteor_agents.pipeline.stages.measurement import Measurement
from meteor_agents.pipeline.stages.refining import refine
from meteor_agents.pipeline.stages.self_training import SelfTraining
from meteor_agents.training import ChatExample, Example


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The stages of one open run."""

    session: Session

    async def run(self) -> None:
        """All stages in order, with an evaluation before, after each and at the end."""
        trains = self.session.trainer is not None
        await self.evaluate(only=[BASE])
        await self.distill()
        if trains:
            await self.finetune()
            await self.evaluate(only=[FINETUNE])
        await self.refine()
        if trains:
            await self.evaluate(only=[REFINE])
        await self.self_train()
        if trains:
            await self.evaluate(only=[SELF_TRAIN])
        await Measurement(self.session).conclude()

    async def distill(self) -> None:
        """Stage 1, conversations: the student writes a guideline, the teacher answers with it."""
        await distilling.distill(self.session)

    async def finetune(self, own_rows: Sequence[Example | ChatExample] = ()) -> None:
        """Stage 1, training: question -> answer on every accepted trace, or on rows of the user's own."""
        await self.session.arrived(FINETUNE, await distilling.finetune(self.session, own_rows))

    async def refine(self) -> None:
        """Stage 2: attempts, verdicts and guides, with one update of the student for every K accepted traces."""
        await self.session.arrived(REFINE, await refine(self.session))

    async def self_train(self) -> None:
        """Stage 3: turns of preference pairs, with an update of the student after each."""
        entered = self.session.latest(before=SELF_TRAIN)
        await self.session.arrived(SELF_TRAIN, await SelfTraining(self.session).train(entered))

    async def evaluate(self, only: Sequence[str] = LINEAGE) -> None:
        """Score the checkpoints of the lineage on every held-out set; scored questions are not asked again."""
        labels = [label for label in LINEAGE if label in only and label in self.session.lineage]
        await Measurement(self.session).checkpoints(labels)
        await self.session.save_lineage()

    async def measure(self) -> None:
        """Score every checkpoint of the lineage and every rival, and compare them with one another."""
        await self.evaluate()
        await Measurement(self.session).conclude()
