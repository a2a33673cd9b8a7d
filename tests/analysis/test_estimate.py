"""The estimate against what a run then does, with scripted models."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from meteor_agents.analysis.estimating.estimate import estimate
from meteor_agents.analysis.estimating.figures import Estimate
from meteor_agents.analysis.estimating.rehearsed_run import Given
from meteor_agents.assembly.opening import open_templates, stored_lineage
from meteor_agents.backends.local.token_counting import local_counter
from meteor_agents.backends.scripted import ScriptedModel
from meteor_agents.calls.budget import Price
from meteor_agents.models import ChatMessage, SamplingParams, TokenCounter
from meteor_agents.pipeline.cast import FreeJudges
from meteor_agents.pipeline.pipeline import Pipeline
from meteor_agents.pipeline.session import Session
from meteor_agents.settings.roles import StudentSettings
from meteor_agents.training import Checkpoint
from tests.pipeline.test_pipeline import FolderTrainer, Learner, Run

FREE = Price(0, 0)


def given(pipeline: Pipeline, **more: Any) -> Given:
    session = pipeline.session
    fields: dict[str, Any] = {
        "settings": session.settings,
        "questions": session.questions,
        "templates": open_templates(session.settings.prompts.dir),
        "records": session.store,
        "base": session.base,
        "lineage": session.lineage,
        "trains": session.trainer is not None,
        "free": FreeJudges(session.cast.judge if session.cast.judge.free else None),
        "prices": dict.fromkeys(("student", "teacher", "judge"), FREE),
        "counters": {},
    }
    return Given(**{**fields, **more})


def estimated(run: Run, command: str = "run", **more: Any) -> Estimate:
    """The estimate for the run's folder in its present state. The test's run names both models after their role."""
    found: list[Estimate] = []

    async def stage(pipeline: Pipeline) -> None:
        pipeline.session.lineage = run_lineage(pipeline.session)
        found.append(await estimate(command, given(pipeline, **more)))

    run(stage)
    return found[0]


def run_lineage(session: Session) -> dict[str, Checkpoint]:
    return stored_lineage(session.store, session.base, session.folder)


def named(**more: Any) -> dict[str, Any]:
    """Settings whose model names are those that the test's run records under."""
    return {"student": {"backend": "scripted", "model": "student", "limits": {"concurrency": 4}}, **more}


def judge_says(messages: Sequence[ChatMessage], sampling: SamplingParams) -> str:
    text = messages[-1].content
    criteria = ("accuracy", "completeness", "relevance", "coherence", "reliability")
    if "Reply A" in text:
        return json.dumps(dict.fromkeys(criteria, "tie"))
    if "whole number" in text:
        return json.dumps(dict.fromkeys(criteria, 5))
    number = int(re.findall(r"plus (\d+)", text)[0])
    right = f"Answer: {number + 1}" in text
    return json.dumps({"status": "correct" if right else "incorrect", "explanation": "x", "guide": "add"})


@pytest.mark.parametrize("judged_by_a_model", [False, True])
def test_nothing_is_left_to_do_after_a_whole_run_and_only_then(tmp_path: Path, judged_by_a_model: bool) -> None:
    judge = {"judge": {"backend": "scripted", "model": "judge"}} if judged_by_a_model else {}

    def run() -> Run:
        made = Run(tmp_path / "run", learner, trainer, **named(**judge))
        made.judge_model = ScriptedModel(judge_says, name="judge") if judged_by_a_model else None
        return made

    learner, trainer = Learner(), FolderTrainer()
    before = estimated(run())
    assert learner.calls == 0
    status = run()()
    made = {role: row["made"] for role, row in status["calls"].items()}
    for role, told in before.roles.items():
        # This student gives equal replies under several weights, which the judge is asked about once.
        assert 0.7 * made[role] <= told.calls <= (2 if role == "judge" else 1.4) * made[role], role
        assert told.reused == 0

    calls = learner.calls
    after = estimated(run())
    assert {role: (told.calls, told.input_tokens) for role, told in after.roles.items()} == dict.fromkeys(
        before.roles, (0, 0)
    )
    assert learner.calls == calls


def test_what_a_run_has_done_is_left_out_of_its_estimate(tmp_path: Path) -> None:
    learner, tried = Learner(), {"revise": True}
    Run(tmp_path / "run", learner, None, **named(distill=tried))(Pipeline.distill)
    run = Run(tmp_path / "run", learner, None, **named(distill=tried))
    assert estimated(run, "distill").roles["student"].calls == 0
    edited = Run(tmp_path / "run", learner, None, **named())
    assert estimated(edited, "distill").roles["student"].calls == 0
    elsewhere = Run(tmp_path / "run", learner, None, **named(domain="sums of two", distill=tried))
    assert estimated(elsewhere, "distill").roles["student"].calls == 40


def test_a_run_whose_attempts_were_all_right_is_not_expected_to_need_more(tmp_path: Path) -> None:
    def right(messages: Sequence[ChatMessage], sampling: SamplingParams) -> str:
        number = int(re.findall(r"plus (\d+)", messages[-1].content)[0])
        return f"Answer: {number + 1}"

    learner = Learner()
    learner.model._reply = right
    few = named(refine={"questions": 10})
    Run(tmp_path / "run", learner, None, **few)(Pipeline.refine)
    told = estimated(Run(tmp_path / "run", learner, None, **named(refine={"questions": 30})), "refine")
    assert told.roles["student"].calls == 20
    assert "0% of the attempts are judged incorrect (as in this run so far)" in told.assumptions


def test_more_questions_than_are_rehearsed_are_scaled_up(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", Learner(), None, **named())
    found: list[Estimate] = []

    async def few(pipeline: Pipeline) -> None:
        for count in (8, 40):
            found.append(await estimate("refine", given(pipeline), questions=count))

    run(few)
    fewer, all_of_them = (found_.roles["student"] for found_ in found)
    assert fewer.calls == all_of_them.calls == round(30 * (1 + 1 / 2 + 1 / 4))
    assert fewer.input_tokens == pytest.approx(all_of_them.input_tokens, rel=0.05)
    assert "rehearsed on 8 questions a stage, of up to 30, and scaled up" in found[0].assumptions


def test_money_is_tokens_times_price_and_unknown_without_one(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", Learner(), None, **named())
    priced = estimated(run, "refine", prices={"student": Price(2, 10)})
    told = priced.roles["student"]
    assert told.usd == pytest.approx((2 * told.input_tokens + 10 * told.output_tokens) / 1e6)
    unknown = estimated(run, "refine", prices={"student": None})
    assert (unknown.roles["student"].usd, unknown.usd) == (None, None)
    assert "student: no price is given, so the cost of its calls is unknown" in unknown.assumptions


def test_tokens_are_counted_by_the_given_counter_and_it_is_named(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", Learner(), None, **named(distill={"revise": True}))
    words = TokenCounter(lambda text: len(text.split()), "words")
    characters, counted = (
        estimated(run, "distill", counters=counters).roles["student"].input_tokens
        for counters in ({}, {"student": words})
    )
    assert 0 < counted != characters
    told = estimated(run, "distill", counters={"student": words}).assumptions
    assert any(line.endswith("words") for line in told if line.startswith("student"))


def test_a_tokenizer_is_used_only_where_it_is_on_this_machine(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="needs the packages of the extra [local]")
    here = StudentSettings(backend="transformers", model=str(tmp_path))
    assert local_counter(here) is None
    assert local_counter(StudentSettings(backend="openai", model="m")) is None
    model = tokenizers.models.WordLevel({"one": 0, "two": 1, "?": 2}, unk_token="?")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    counter = local_counter(here)
    assert counter is not None
    assert counter.count("one two three") == 3
    assert str(tmp_path) in counter.name


def test_rehearsing_leaves_the_loop_to_others(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", Learner(), None, **named())
    turns = 0

    async def stage(pipeline: Pipeline) -> None:
        nonlocal turns

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        await estimate("refine", given(pipeline))
        task.cancel()

    stage_: Callable[[Pipeline], Any] = stage
    run(stage_)
    assert turns >= 30
