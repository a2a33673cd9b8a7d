"""Stage 3 over a real store: strategies that draw samples, what is dropped and why, turns and when they stop."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from meteor_agents.analysis.estimating.estimate import estimate
from meteor_agents.backends.scripted import ScriptedModel
from meteor_agents.cli.commands.results.traces import show_traces
from meteor_agents.events import Note
from meteor_agents.messages import Dropped, Lineage
from meteor_agents.method.replies import CRITERIA
from meteor_agents.models import ChatMessage, Likelihood, SamplingParams
from meteor_agents.pipeline.pipeline import Pipeline
from meteor_agents.settings.roles import JudgeSettings
from meteor_agents.store.records import open_for_reading
from meteor_agents.traces import Outcome, Trace
from meteor_agents.training import PreferencePair
from tests.analysis.test_estimate import given
from tests.pipeline.test_pipeline import Events, FolderTrainer, Learner, Run

Reply = Callable[[int, SamplingParams], str]


class Decoder(Learner):
    """A student that answers number `n` greedily with 0, and right in the samples whose seed is divisible by `n`'s rest
    of 4; it knows more with each turn."""

    knows = 0
    """Questions below this number it answers right, greedily too."""
    learns = 0

    def reply(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> str:
        self.calls += 1
        if sampling.score:
            return Likelihood(-1.0 * len(messages[-1].content), 4).written()
        number = int(re.findall(r"plus (\d+)", messages[-1].content)[0])
        turn = int(found[1]) if (found := re.match(r"self-train-(\d+)", self.model.weights)) else 0
        right = number % 100 < self.knows + self.learns * turn
        right = right or (sampling.seed is not None and sampling.seed % 4 == number % 4)
        return f"Add them.\nAnswer: {number + 1 if right else 0}"


def run_of(folder: Path, learner: Learner, **self_train: Any) -> Run:
    student = {"backend": "scripted", "model": "student", "sampling": {"seed": 1}, "limits": {"concurrency": 4}}
    return Run(folder, learner, FolderTrainer(), student=student, self_train=self_train)


def lineages(run: Run, stage: str = "self-train") -> dict[str, tuple[Trace, Lineage]]:
    with closing(open_for_reading(run.folder / "run.db")) as records:
        traces = [trace for trace in records.current_traces() if trace.stage == stage]
    found = {trace.question.id: (trace, trace.lineage) for trace in traces}
    return {id_: (trace, lineage) for id_, (trace, lineage) in found.items() if lineage is not None}


def notes(run: Run) -> list[str]:
    assert isinstance(run.events, Events)
    return [event.text for event in run.events.all if isinstance(event, Note)]


def test_pairs_keep_their_lineage_and_what_is_dropped_is_counted(tmp_path: Path) -> None:
    run = run_of(tmp_path, Decoder(), high={"best_of": 2}, verify=True)
    run(Pipeline.self_train)
    found = lineages(run)
    assert len(found) == 40
    for number in range(40):
        trace, lineage = found[f"q{number:03d}"]
        assert (lineage.low.strategy, lineage.high.strategy) == ("greedy", "best of 2 by judge")
        assert (lineage.low.weights, lineage.low.calls, lineage.high.calls) == ("base", 1, 2)
        assert lineage.high.scores == (float(number % 4 == 1), float(number % 4 == 2))
        right = number % 4 in (1, 2)
        assert trace.outcome is (Outcome.ACCEPTED if right else Outcome.EXHAUSTED)
        assert lineage.dropped is (None if right else Dropped.EQUAL)
    assert "self-train: 20 pairs of 40 questions; dropped: 20 equal" in notes(run)
    assert run.trainer is not None
    (job,) = run.trainer.jobs
    for row in job.rows:
        assert isinstance(row, PreferencePair)
        assert (row.rejected[-2:], row.chosen.endswith(str(int(row.id[1:]) + 1))) == (" 0", True)


def test_a_traces_lineage_is_shown_in_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path, Decoder(), high={"best_of": 2})
    run(untrained)
    for id_ in ("q001", "q003"):
        show_traces(tmp_path, question=id_, stage="self-train", outcome=None, limit=9)
    kept, dropped = capsys.readouterr().out.split("self-train ·")[1:]
    assert "  low: greedy, 1 calls\n  high: best of 2 by judge, number 1 of 2, 2 calls\n" in kept
    assert "dropped" not in kept
    assert "  dropped: equal\n" in dropped


@pytest.mark.parametrize("high", [{"best_of": 3, "by": "likelihood"}, {"vote": 3}, {"best_of": 3}])
def test_a_stage_that_draws_samples_asks_none_again_when_it_is_run_again(tmp_path: Path, high: dict[str, Any]) -> None:
    class Stop(Exception):
        pass

    learner = Decoder()
    plain = learner.model._reply

    def stopping(messages: Sequence[ChatMessage], sampling: SamplingParams) -> str:
        if learner.calls == 57:
            learner.calls += 1
            raise Stop
        return plain(messages, sampling)

    learner.model._reply = stopping
    with pytest.raises(Stop):
        run_of(tmp_path, learner, high=high)(Pipeline.self_train)
    run_of(tmp_path, learner, high=high)(Pipeline.self_train)
    calls = learner.calls
    whole = Decoder()
    run_of(tmp_path / "whole", whole, high=high)(Pipeline.self_train)
    in_flight = 4 * 3
    assert calls <= whole.calls + in_flight
    run_of(tmp_path, learner, high=high)(Pipeline.self_train)
    assert learner.calls == calls


def test_another_number_of_samples_asks_for_the_missing_ones_only(tmp_path: Path) -> None:
    learner = Decoder()
    run_of(tmp_path, learner, high={"best_of": 3})(untrained)
    calls = learner.calls
    run_of(tmp_path, learner, high={"vote": 5})(untrained)
    assert learner.calls == calls + 2 * 40


async def untrained(pipeline: Pipeline) -> None:
    pipeline.session.trainer = None
    await pipeline.self_train()


def test_turns_stop_when_the_gate_set_no_longer_improves(tmp_path: Path) -> None:
    learner = Decoder()
    learner.learns = 4
    run = run_of(tmp_path, learner, high={"best_of": 4}, turns=9, stop_early=True)
    status = run(Pipeline.self_train)
    turns = [r for r in status["rounds"] if r["stage"].startswith("self-train")]
    # 12 gate questions: 3 turns of 4 more right each, and one that cannot improve on 12.
    assert len(turns) == 4
    assert "self-train: stopped after turn 4 of 9: 12 gate questions right, 12 before" in notes(run)
    calls = learner.calls
    again = run_of(tmp_path, learner, high={"best_of": 4}, turns=9, stop_early=True)(Pipeline.self_train)
    assert learner.calls == calls
    assert again["rounds"] == status["rounds"]


def test_a_turn_that_makes_the_student_worse_is_taken_back(tmp_path: Path) -> None:
    learner = Decoder()
    learner.knows, learner.learns = 4, -1
    run = run_of(tmp_path, learner, high={"best_of": 4}, turns=3, stop_early=True)
    arrived: list[str] = []

    async def train(pipeline: Pipeline) -> None:
        await pipeline.self_train()
        arrived.append(pipeline.session.lineage["self-train"].version)

    status = run(train)
    assert [r["promoted"] for r in status["rounds"]] == [True], "one question fewer is inside the gate's noise"
    assert arrived == ["base"]


def test_every_turns_pairs_are_decoded_by_the_turn_before(tmp_path: Path) -> None:
    learner = Decoder()
    learner.learns = 2
    run = run_of(tmp_path, learner, high={"best_of": 4}, turns=2)
    status = run(Pipeline.self_train)
    first, _ = status["rounds"]
    spoke = {lineage.high.weights for _, lineage in lineages(run, "self-train-2").values()}
    assert spoke == {first["checkpoint"]}


@pytest.mark.parametrize(
    ("high", "calls"), [({"best_of": 3}, 4), ({"best_of": 3, "by": "likelihood"}, 7), ({"vote": 4}, 5)]
)
def test_an_estimate_counts_every_sample(tmp_path: Path, high: dict[str, Any], calls: int) -> None:
    learner = Decoder()
    told: list[int] = []

    async def foretell(pipeline: Pipeline) -> None:
        pipeline.session.trainer = None
        told.append((await estimate("self-train", given(pipeline))).roles["student"].calls)

    run_of(tmp_path, learner, high=high)(foretell)
    run_of(tmp_path, learner, high=high)(untrained)
    run_of(tmp_path, learner, high=high)(foretell)
    assert told == [40 * calls, 0]
    assert learner.calls <= told[0], "equal samples are scored once"


def test_a_model_judge_that_ranks_samples_is_foretold_too(tmp_path: Path) -> None:
    def says(messages: Sequence[ChatMessage], sampling: SamplingParams) -> str:
        text = messages[-1].content
        right = "Answer: 0" not in text
        if "whole number" in text:
            return json.dumps(dict.fromkeys(CRITERIA, 9 if right else 2))
        return json.dumps({"status": "correct" if right else "incorrect", "explanation": "x", "guide": "x"})

    judge = ScriptedModel(says, name="judge")
    told: list[int] = []

    async def foretell(pipeline: Pipeline) -> None:
        pipeline.session.trainer = None
        told.append((await estimate("self-train", given(pipeline))).roles["judge"].calls)

    for stage in (foretell, untrained, foretell):
        run = run_of(tmp_path, Decoder(), high={"best_of": 2}, verify=True)
        run.settings = run.settings.model_copy(update={"judge": JudgeSettings(backend="scripted", model="judge")})
        run.judge_model = judge
        run(stage)
    assert told == [40 * (2 + 2), 0]
    assert judge.calls <= told[0], "equal answers are judged once, and those of equal pairs are not verified"
    found = lineages(run)
    assert {id_: lineage.high.scores for id_, (_, lineage) in found.items() if id_ in ("q001", "q003")} == {
        "q001": (9.0, 2.0),
        "q003": (2.0, 2.0),
    }
