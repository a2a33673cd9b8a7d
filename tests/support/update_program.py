"""A whole run in which a process kills itself at a boundary: python -m tests.update_program FOLDER BOUNDARY.

The trainer writes a folder and learns nothing; everything else is the product's own.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meteor_agents.events import Event, UpdateFinished
from meteor_agents.store.call_records import NewCall
from meteor_agents.store.stage_records import Round
from meteor_agents.store.store import Store
from meteor_agents.traces import Trace
from meteor_agents.training import TrainingJob, TrainingReport
from tests.pipeline.test_pipeline import FolderTrainer, Learner, Run

UPDATE = 2
"""The update, of the run's five, at which it happens: the first one of stage 2."""

BOUNDARIES = (
    "some held-out questions are scored",
    "the trace that fills the buffer is stored",
    "training begins",
    "half of the checkpoint is written",
    "the checkpoint has its name",
    "the candidate is loaded",
    "the candidate has answered one gate question",
    "the round is about to be recorded",
    "the round is recorded",
    "the update is announced",
    "the stage is done",
    "the lineage is stored",
)


class Killer:
    """Ends this process, as the kernel would, the first time that the boundary is reached in the right update."""

    def __init__(self, boundary: str) -> None:
        self._boundary = boundary
        self.update = 1

    def at(self, boundary: str, *, update: int = UPDATE) -> None:
        if boundary == self._boundary and self.update == update:
            os.kill(os.getpid(), signal.SIGKILL)


class KillingTrainer(FolderTrainer):
    def __init__(self, folder: Path, killer: Killer) -> None:
        super().__init__()
        self._trained = folder / "trained.txt"
        self._killer = killer

    async def train(self, job: TrainingJob, folder: Path, on_event: Callable[[Event], None]) -> TrainingReport:
        self._killer.at("training begins")
        half = folder.with_name(f".work-{folder.name}")
        half.mkdir(exist_ok=True)
        self._killer.at("half of the checkpoint is written")
        half.rmdir()
        report = await super().train(job, folder, on_event)
        with self._trained.open("a") as trained:
            trained.write(f"{job.version()}\n")
        self._killer.at("the checkpoint has its name")
        return report


class KillingStore(Store):
    def __init__(self, path: Path, killer: Killer) -> None:
        super().__init__(path)
        self._killer = killer
        self._accepted = self._scored = 0

    async def add_trace(self, recipe: str, trace: Trace) -> None:
        await super().add_trace(recipe, trace)
        self._accepted += trace.stage == "refine" and trace.outcome == "accepted"
        if self._accepted == 10:
            self._killer.at("the trace that fills the buffer is stored")

    async def add_call(self, call: NewCall) -> None:
        await super().add_call(call)
        if call.stage == "gate" and "refine-001" in call.reply.weights:
            self._killer.at("the candidate has answered one gate question")

    async def add_score(self, checkpoint: str, heldout: str, recipe: str, question_id: str, result: str) -> None:
        await super().add_score(checkpoint, heldout, recipe, question_id, result)
        self._scored += 1
        if self._scored == 7:
            self._killer.at("some held-out questions are scored", update=1)

    async def add_round(self, recipe: str, round_: Round) -> None:
        self._killer.at("the round is about to be recorded")
        await super().add_round(recipe, round_)
        self._killer.at("the round is recorded")

    async def set_stage(
        self, stage: str, recipe: str, state: str, questions: int, checkpoint: str, seconds: float
    ) -> None:
        await super().set_stage(stage, recipe, state, questions, checkpoint, seconds)
        if (stage, state) == ("refine", "done"):
            self._killer.at("the stage is done", update=5)

    async def set_meta(self, key: str, value: Any) -> None:
        await super().set_meta(key, value)
        if key == "lineage" and "refine" in value:
            self._killer.at("the lineage is stored", update=5)


class KillingEvents:
    def __init__(self, killer: Killer) -> None:
        self._killer = killer

    def on_event(self, event: Event) -> None:
        if isinstance(event, UpdateFinished):
            self._killer.at("the update is announced")
            self._killer.update += 1


class KillingLearner(Learner):
    def __init__(self, killer: Killer) -> None:
        super().__init__()
        load = self.model.load_weights

        async def load_weights(folder: Path, version: str) -> None:
            await load(folder, version)
            if version.startswith("refine-001"):
                killer.at("the candidate is loaded")

        self.model.load_weights = load_weights  # type: ignore[method-assign]  # the model is a double already


def begin(folder: Path, boundary: str) -> None:
    """Run all stages, one conversation at a time so that their order is one; to the end, or to the boundary."""
    killer = Killer(boundary)
    run = Run(
        folder,
        KillingLearner(killer),
        KillingTrainer(folder, killer),
        student={"backend": "scripted", "limits": {"concurrency": 1}},
    )
    run.store = lambda path: KillingStore(path, killer)
    run.events = KillingEvents(killer)
    run()


if __name__ == "__main__":
    begin(Path(sys.argv[1]), sys.argv[2])
