"""`meteor check`: what it finds out about each role's model, and what it says to do where that does not fit."""

from __future__ import annotations

import json
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from meteor_agents.cli.app import app, exit_code
from meteor_agents.errors import MeteorError
from tests.backends.conformance.fake_server import FakeServer
from tests.support.tiny_model import make_tiny

SETTINGS = """
name: checked
domain: sums
questions: {{path: questions.jsonl, holdout: 2, gate: 2}}
student: {{backend: openai, model: m, base_url: {url}/v1, sampling: {{max_tokens: 40}}}}
teacher: {{backend: reference}}
judge: {{verifier: numeric}}
self_train: {{high: {{sample: 1.0}}}}
"""
JUDGE = "judge={{backend: openai, model: m, base_url: {url}/v1}}"
VERDICT = json.dumps({"status": "correct", "explanation": "so", "guide": ""})


@pytest.fixture
def project(tmp_path: Path) -> Path:
    rows = [{"id": f"q{i}", "question": "What is one plus one? " + "word " * i, "reference": "2"} for i in range(12)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def check(project: Path, server: FakeServer, *overrides: str, code: int = 0) -> str:
    """What the command printed, without the lines of its table."""
    (project / "meteor.yaml").write_text(SETTINGS.format(url=server.url))
    given = [word for override in overrides for word in ("--set", override)]
    with chdir(project):
        done = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["check", "meteor.yaml", *given])
    said, found = done.output, done.exit_code
    if isinstance(done.exception, MeteorError):
        said, found = said + str(done.exception), exit_code(done.exception)
    assert found == code, said + repr(done.exception)
    return " ".join(said.replace("│", " ").split())


def test_a_server_is_told_by_its_longest_prompt_its_speed_and_its_context(project: Path) -> None:
    with FakeServer(models=[{"id": "m", "max_model_len": 4096}]).running() as server:
        said = check(project, server)
        longest = max(len(body["messages"][-1]["content"]) for body in server.asked("/v1/chat/completions"))
    assert "m answers through openai in" in said
    assert "tokens/s" in said
    assert "it reads 4,096" in said
    assert longest > len("What is one plus one? " + "word " * 8), "the longest question was asked, not the first"
    assert "weights cannot be updated" in said


def test_a_context_that_is_too_short_is_a_misfit_with_what_to_do(project: Path) -> None:
    with FakeServer(models=[{"id": "m", "meta": {"n_ctx_train": 60}}]).running() as server:
        said = check(project, server, code=2)
    assert "it reads 60 PROBLEM" in said
    assert "set student.sampling.max_tokens to at most" in said or "shorten the questions" in said


def test_a_server_that_does_not_list_its_models_is_no_problem(project: Path) -> None:
    with FakeServer().running() as server:
        assert "the model does not say how much it reads" in check(project, server)


def test_a_judge_is_asked_for_a_real_verdict(project: Path) -> None:
    with FakeServer(models=[{"id": "other"}]).running() as server:
        judge = JUDGE.format(url=server.url)
        said = check(project, server, judge, code=2)
        assert "verdicts cannot be read" in said
        assert "use a stronger judge" in said
        assert "name is served as other" in said
        server.refuse = lambda body: "json_schema is not supported" if "response_format" in body else None
        server.says = VERDICT
        said = check(project, server, judge)
    assert "verdicts can be read (correct on a reference" in said
    assert "asks for JSON in words only" in said


def test_a_student_of_this_process_shows_its_template_and_that_it_takes_weights(project: Path) -> None:
    make_tiny(project / "model")
    tiny = "student={backend: transformers, model: model, device: cpu, dtype: float32, sampling: {max_tokens: 16}}"
    with FakeServer().running() as server:
        said = check(project, server, tiny)
        assert "a turn ends with <|im_end|>" in said
        assert "it reads 512" in said
        assert "can be replaced: its own loaded in" in said
        said = check(project, server, tiny, "student.sampling.max_tokens=500", code=2)
        assert "set student.sampling.max_tokens to at most" in said


def test_beams_that_a_student_does_not_have_are_a_misfit(project: Path) -> None:
    with FakeServer().running() as server:
        said = check(project, server, "self_train.high={beam: 4}", code=2)
    assert "has no beam search; the nearest it can do is high: {best_of: 4, by: judge}" in said


def test_a_server_that_is_not_there_is_named_and_the_other_roles_are_still_tried(project: Path) -> None:
    gone: Any = FakeServer()
    with gone.running():
        address = gone.url
    with FakeServer().running() as server:
        said = check(project, server, JUDGE.format(url=address), code=1)
    assert "student answers m answers through openai" in said
    assert "judge PROBLEM m gave no reply to the run's longest prompt: m: no connection to 127.0.0.1" in said
