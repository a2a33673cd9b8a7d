"""Stage 2 with conversations that go on while an update trains: how far behind the weights that speak may be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meteor_agents.errors import TrainingError
from meteor_agents.events import CallStarted, Event, QuestionFinished, StageFinished, StageStarted
from meteor_agents.training import TrainingJob, TrainingReport
from tests.pipeline.test_pipeline import FolderTrainer, Learner, Run

K = 5


class LastTrainer(FolderTrainer):
    """An update takes until no conversation can go on without it."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self._learner = learner
        self.spoken_meanwhile: list[int] = []
        self.ends = ""
        """The name of the job that fails."""

    async def train(self, job: TrainingJob, folder: Path, on_event: Callable[[Event], None]) -> TrainingReport:
        before, calls = self._learner.calls, -1
        while job.name.startswith("refine") and calls != self._learner.calls:
            calls = self._learner.calls
            await asyncio.sleep(0.3)
        self.spoken_meanwhile.append(self._learner.calls - before)
        if job.name == self.ends:
            raise TrainingError("the trainer's last words")
        return await super().train(job, folder, on_event)


class Lags:
    """By how many rounds the student was behind whenever it was asked in stage 2."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._in_stage = False
        self._accepted = 0
        self.all: list[int] = []

    def on_event(self, event: Event) -> None:
        match event:
            case StageStarted("refine"):
                self._in_stage = True
            case StageFinished("refine"):
                self._in_stage = False
            case QuestionFinished("refine", _, "accepted"):
                self._accepted += 1
            case CallStarted("student", question) if self._in_stage and question < "q100":
                name, _, number = self._learner.model.weights.rpartition("-")[0].rpartition("-")
                self.all.append(self._accepted // K - (int(number) if name == "refine" else 0))


def overlapped(folder: Path, **more: Any) -> tuple[Run, LastTrainer, Lags]:
    learner = Learner()
    trainer = LastTrainer(learner)
    run = Run(folder, learner, trainer, refine={"update_every": K, **more})
    run.events = lags = Lags(learner)
    return run, trainer, lags


@pytest.mark.parametrize("staleness", [1, 3])
def test_conversations_go_on_during_an_update_and_weights_are_no_staler_than_allowed(
    tmp_path: Path, staleness: int
) -> None:
    run, trainer, lags = overlapped(tmp_path / "run", mode="overlap", staleness=staleness)
    status = run()
    assert max(lags.all) == staleness
    assert max(trainer.spoken_meanwhile) >= staleness * K
    assert status["stages"]["refine"]["accepted"] == 40
    rounds = [round_ for round_ in status["rounds"] if round_["stage"] == "refine"]
    assert [(round_["round"], round_["traces"], round_["promoted"]) for round_ in rounds] == [
        (number, K, True) for number in range(1, 9)
    ]


def test_without_overlap_no_conversation_speaks_during_an_update(tmp_path: Path) -> None:
    run, trainer, lags = overlapped(tmp_path / "run")
    run()
    assert max(lags.all) == 0
    assert sum(trainer.spoken_meanwhile[1:-1]) == 0


def test_every_message_says_which_weights_spoke_it(tmp_path: Path) -> None:
    run, _, lags = overlapped(tmp_path / "run", mode="overlap")
    run()
    from contextlib import closing

    from meteor_agents.store.records import open_for_reading

    with closing(open_for_reading(run.folder / "run.db")) as records:
        spoken = records.read("SELECT weights FROM calls WHERE stage = 'refine' AND role = 'student'")
    assert len(spoken) == len(lags.all)
    assert {weights.rpartition("-")[0] for (weights,) in spoken} >= {"finetune", "refine-001", "refine-002"}


def test_an_update_that_fails_beside_conversations_ends_the_run_and_is_repeated_by_the_next(tmp_path: Path) -> None:
    run, trainer, _ = overlapped(tmp_path / "run", mode="overlap")
    trainer.ends = "refine-002"
    with pytest.raises(TrainingError, match="last words"):
        run()
    trainer.ends = ""
    status = run()
    assert status["stages"]["refine"]["accepted"] == 40
    assert len([round_ for round_ in status["rounds"] if round_["stage"] == "refine"]) == 8
