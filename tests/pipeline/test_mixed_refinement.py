"""Stage 2's updates that mix kinds of rows: what is in them, when they are made, and that a stopped run makes the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from meteor_agents.models import ChatMessage, SamplingParams
from meteor_agents.pipeline.recipes import Recipes
from meteor_agents.training import DistilledReply, Example, PairwiseLoss, PreferencePair, SelfDistillation, TrainingJob
from tests.pipeline.test_pipeline import BASE, FolderTrainer, Learner, Run, settings

ONE_AT_A_TIME = {"backend": "scripted", "limits": {"concurrency": 1}}


class Stubborn(Learner):
    """Never learns the questions whose number can be divided by 6."""

    def reply(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> str:
        said = super().reply(messages, sampling)
        number = said.partition(" and one")[0].removeprefix("Add ")
        return "Answer: 0" if number.isdigit() and int(number) % 6 == 0 else said


def updates(run: Run) -> list[TrainingJob]:
    assert run.trainer is not None
    return [job for job in run.trainer.jobs if job.name.startswith("refine")]


def test_update_with_pairs_also_learns_undisputed_replies_and_replays_stage_one(tmp_path: Path) -> None:
    pairs = {"conversion": "pairs", "loss": "dpo", "beta": 0.2, "nll": 0.1, "replay": 0.5}
    run = Run(tmp_path / "run", Learner(), FolderTrainer(), refine={"update_every": 10, "questions": 30, **pairs})
    status = run()
    for job in updates(run):
        assert job.loss == PairwiseLoss(name="dpo", beta=0.2, nll=0.1)
        disputed = [row for row in job.rows if isinstance(row, PreferencePair)]
        replayed = [row for row in job.rows if row.id.startswith("replay-")]
        undisputed = [row for row in job.rows if isinstance(row, Example) and row not in replayed]
        assert {int(row.id[1:4]) % 3 for row in disputed} == {0}  # the hard ones
        assert {int(row.id[1:4]) % 3 for row in undisputed} == {1, 2}
        assert len(disputed) + len(undisputed) == 10
        assert len(replayed) == 5
    assert all("left_out" not in round_ or not round_["left_out"] for round_ in status["rounds"])


@pytest.mark.parametrize("mode", ["sync", "overlap"])
def test_self_distillation_updates_when_accepted_and_exhausted_traces_fill_the_buffer(tmp_path: Path, mode: str) -> None:
    distils = {"conversion": "self_distill", "divergence": "jsd", "replay": 1.0}
    refine = {"update_every": 10, "questions": 30, "mode": mode, **distils}
    run = Run(tmp_path / "run", Stubborn(), FolderTrainer(), refine=refine)
    status = run()
    assert status["stages"]["refine"]["exhausted"] == 5
    assert [r["traces"] for r in status["rounds"] if r["stage"] == "refine"] == [10, 10, 10]
    jobs = updates(run)
    assert [job.loss for job in jobs] == [SelfDistillation(divergence="jsd")] * 3
    rows = [row for job in jobs for row in job.rows if isinstance(row, DistilledReply)]
    by_question = {id_: sum(row.id.startswith(id_) for row in rows) for id_ in (f"q{i:03d}" for i in range(30))}
    assert by_question == {f"q{i:03d}": 3 if i % 6 == 0 else 1 if i % 3 == 0 else 0 for i in range(30)}
    for job in jobs:
        distilled = sum(isinstance(row, DistilledReply) for row in job.rows)
        assert [row.kind for row in job.rows] == ["distilled"] * distilled + ["sft"] * distilled


@pytest.mark.parametrize("conversion", ["pairs", "self_distill"])
@pytest.mark.parametrize("stop_after", [125, 155, 195])
def test_a_run_stopped_in_stage_two_makes_the_very_checkpoints_of_an_uninterrupted_one(
    tmp_path: Path, conversion: str, stop_after: int
) -> None:
    class Stop(Exception):
        pass

    given: dict[str, Any] = {
        "refine": {"update_every": 7, "questions": 30, "conversion": conversion, "data": "cumulative", "replay": 0.5},
        "student": ONE_AT_A_TIME,
    }
    whole = Run(tmp_path / "whole", Stubborn(), FolderTrainer(), **given)
    whole()

    learner, trainer = Stubborn(), FolderTrainer()
    plain = learner.model._reply

    def stopping(messages: Sequence[ChatMessage], sampling: SamplingParams) -> str:
        if learner.calls == stop_after:
            learner.calls += 1
            raise Stop
        return plain(messages, sampling)

    learner.model._reply = stopping
    with pytest.raises(Stop):
        Run(tmp_path / "stopped", learner, trainer, **given)()
    made_before = len(trainer.jobs)
    Run(tmp_path / "stopped", learner, trainer, **given)()
    assert 1 <= made_before < len(trainer.jobs)
    assert whole.trainer is not None
    assert [job.version() for job in trainer.jobs] == [job.version() for job in whole.trainer.jobs]


def test_divergence_is_part_of_a_recipe_only_where_it_is_used() -> None:
    class AnyHash(dict[str, str]):
        def __missing__(self, name: str) -> str:
            return name

    def recipe(**refine: Any) -> str:
        return Recipes(settings(refine=refine), AnyHash()).refine(BASE, trains=True)

    distils = {"conversion": "self_distill"}
    assert recipe(**distils, divergence="jsd") != recipe(**distils) == recipe(**distils, divergence="reverse")
    assert recipe() == recipe(divergence="reverse") != recipe(**distils)
