"""The command line as a user has it: real processes, real files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

PLANTED = "sk-planted-secret-0123456789"


def meteor(*args: str, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "meteor_agents.cli", *args],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "160", **(env or {})},
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


SETTINGS = """
name: sums
domain: sums
questions: {path: questions.jsonl, holdout: 4, gate: 2}
student: {backend: scripted, model: toy, function: "toy:student", limits: {concurrency: 2}}
teacher: {backend: reference}
judge: {verifier: numeric}
refine: {iterations: 2}
"""

TOY = """
import time, os

def student(messages, sampling):
    time.sleep(float(os.environ.get("TOY_SLEEP", "0")))
    with open("asked.txt", "a") as asked:
        asked.write("x\\n")
    text = messages[-1].content
    return "Answer: 4" if "judged to be wrong" in text else "Answer: 5"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "meteor.yaml").write_text(SETTINGS)
    (tmp_path / "toy.py").write_text(TOY)
    rows = [{"question": f"What is {i} plus {4 - i}?", "reference": "4"} for i in range(-10, 11)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


COMMANDS = ["run", "distill", "finetune", "refine", "self-train", "evaluate", "estimate", "check", "init", "status",
            "traces", "report", "export", "models", "models list", "models fetch", "models path",
            "models remove", "prompts", "prompts list", "prompts show",
            "prompts render", "prompts lint", "prompts export"]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, tmp_path: Path) -> None:
    done = meteor(*command.split(), "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_refinement_runs_resumes_and_is_reported(project: Path) -> None:
    done = meteor("refine", "meteor.yaml", "--no-train", cwd=project)
    assert done.returncode == 0, done.stderr
    assert "refine: done" in done.stdout
    asked = len((project / "asked.txt").read_text().split())
    assert asked == 2 * 15
    again = meteor("refine", "meteor.yaml", "--no-train", cwd=project)
    assert again.returncode == 0, again.stderr
    assert "15 done before" in again.stdout
    assert len((project / "asked.txt").read_text().split()) == asked

    status = json.loads(meteor("status", "runs/sums", "--json", cwd=project).stdout)
    assert set(status) == {"stages", "calls", "tokens", "usd", "rounds", "scores"}
    assert status["stages"]["refine"]["accepted"] == 15
    assert status["stages"]["refine"]["accepted_at_try"] == {"2": 15}
    assert "refine" in meteor("status", "runs/sums", cwd=project).stdout
    listed = meteor("traces", "runs/sums", "--limit", "3", cwd=project)
    assert listed.stdout.count("accepted") == 3
    events = [json.loads(line) for line in (project / "runs/sums/log.jsonl").read_text().splitlines()]
    question = next(event["question_id"] for event in events if event["event"] == "QuestionFinished")
    assert "guide" in meteor("traces", "runs/sums", question, cwd=project).stdout


def test_export_writes_accepted_examples_and_pairs(project: Path) -> None:
    assert meteor("refine", "meteor.yaml", "--no-train", cwd=project).returncode == 0
    for what, keys in (
        ("sft", {"id", "stage", "messages"}),
        ("preferences", {"id", "stage", "prompt", "chosen", "rejected"}),
    ):
        done = meteor("export", "runs/sums", "--what", what, "--format", "jsonl", "--out", f"{what}.jsonl", cwd=project)
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in (project / f"{what}.jsonl").read_text().splitlines()]
        assert len(rows) == 15
        assert set(rows[0]) == keys
    assert rows[0]["chosen"][0]["content"] == "Answer: 4"
    assert rows[0]["rejected"][0]["content"] == "Answer: 5"
    parquet = meteor(
        "export", "runs/sums", "--what", "traces", "--format", "parquet", "--out", "t.parquet", cwd=project
    )
    assert parquet.returncode == 0, parquet.stderr
    refused = meteor("export", "runs/sums", "--what", "sft", "--out", "sft.jsonl", cwd=project)
    assert (refused.returncode, "exists already" in refused.stderr) == (2, True)


def test_limit_caps_the_questions_and_fresh_starts_over(project: Path) -> None:
    assert meteor("refine", "meteor.yaml", "--no-train", "--limit", "3", cwd=project).returncode == 0
    assert len((project / "asked.txt").read_text().split()) == 6
    fresh = meteor("refine", "meteor.yaml", "--no-train", "--limit", "3", "--fresh", cwd=project)
    assert "the earlier run is now" in fresh.stdout
    assert len((project / "asked.txt").read_text().split()) == 12
    assert len(list((project / "runs").iterdir())) == 2


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["--set", "refine.iteratons=3"], "did you mean 'iterations'?"),
        (["--set", "questions.path=nowhere.jsonl"], "no such questions file"),
        (["--set", "student.backend=transfomers"], "did you mean 'transformers'?"),
        (["--set", "student={backend: transformers, model: nowhere}"], "nowhere"),
        (["--set", "student.colour=red"], "student.colour"),
        (["--set", "student={backend: openai, model: m, base_url: 'http://127.0.0.1:9/v1', api_key_env: NO_SUCH_KEY}"],
         "NO_SUCH_KEY"),
        (["--set", "student={backend: reference}"], "student.backend: reference is a teacher only"),
        (["--set", "judge={backend: reference}"], "judge.backend: reference is a teacher only"),
        (["--set", "budget.usd=1", "--set", "judge={backend: openai, model: m, base_url: 'http://127.0.0.1:9/v1'}"],
         "judge.price is missing"),
        (["--set", "judge.verifier=nmeric"], "Did you mean 'numeric'?"),
        (["--set", "prompts.dir=nowhere"], "is not a folder"),
        (["--set", "questions.holdout=400"], "leave nothing to train on"),
    ],
)  # fmt: skip
def test_a_users_mistake_is_one_clear_message_and_exit_code_2(project: Path, args: list[str], complaint: str) -> None:
    done = meteor("refine", "meteor.yaml", "--no-train", *args, cwd=project)
    assert done.returncode == 2, done.stderr
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project / "asked.txt").exists()


def test_a_held_out_question_that_occurs_in_training_is_refused(project: Path) -> None:
    (project / "held.jsonl").write_text((project / "questions.jsonl").read_text().splitlines()[0] + "\n")
    done = meteor(
        "evaluate", "meteor.yaml", "--set", "questions.heldout={mine: held.jsonl}", "--set", "questions.holdout=0",
        "--set", "questions.gate=0", cwd=project,
    )  # fmt: skip
    assert (done.returncode, "occur in" in done.stderr) == (2, True)


def test_training_a_student_that_cannot_be_trained_is_refused_before_any_call(project: Path) -> None:
    done = meteor("refine", "meteor.yaml", cwd=project)
    assert done.returncode == 2
    assert "cannot be trained here" in done.stderr
    assert not (project / "asked.txt").exists()


def test_an_unreachable_server_fails_its_questions_and_then_the_stage(project: Path) -> None:
    done = meteor(
        "refine", "meteor.yaml", "--no-train", "--limit", "2", "--set",
        "student={backend: openai, model: m, base_url: 'http://127.0.0.1:9/v1', limits: {retries: 0}}", cwd=project,
    )  # fmt: skip
    assert done.returncode == 1
    assert "all 2 questions failed" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_secret_is_in_nothing_that_a_failing_run_wrote(project: Path) -> None:
    done = meteor(
        "refine", "meteor.yaml", "--no-train", "--limit", "2", "--set",
        "student={backend: openai, model: m, base_url: 'http://127.0.0.1:9/v1', api_key_env: MY_KEY,"
        " limits: {retries: 0}}", cwd=project, env={"MY_KEY": PLANTED},
    )  # fmt: skip
    assert done.returncode == 1
    assert PLANTED not in done.stdout + done.stderr
    written = [path for path in (project / "runs").rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if PLANTED.encode() in path.read_bytes()]


def test_a_credential_among_the_headers_is_refused_and_not_written(project: Path) -> None:
    done = meteor(
        "refine", "meteor.yaml", "--no-train", "--set", "judge={backend: openai, model: m, base_url:"
        f" 'http://127.0.0.1:9/v1', headers: {{X-Api-Key: {PLANTED}}}}}", cwd=project,
    )  # fmt: skip
    assert done.returncode == 2
    assert "headers_env: {X-Api-Key: VARIABLE}" in done.stderr
    assert PLANTED not in done.stdout + done.stderr
    written = [path for path in (project / "runs").rglob("*") if path.is_file()]
    assert not [path for path in written if PLANTED.encode() in path.read_bytes()]


def test_a_key_inside_an_address_is_refused_and_lands_nowhere(project: Path) -> None:
    server = f"judge={{backend: openai, model: m, base_url: 'http://user:{PLANTED}@127.0.0.1:9/v1'}}"
    for command in (["refine", "meteor.yaml", "--no-train"], ["check", "meteor.yaml"], ["estimate", "meteor.yaml"]):
        done = meteor(*command, "--set", server, cwd=project)
        assert done.returncode == 2
        assert "api_key_env" in done.stderr
        assert PLANTED not in done.stdout + done.stderr
    assert not [path for path in project.rglob("*") if path.is_file() and PLANTED.encode() in path.read_bytes()]


def test_retries_are_counted_in_the_status(project: Path) -> None:
    done = meteor(
        "refine", "meteor.yaml", "--no-train", "--limit", "2", "--set",
        "student={backend: openai, model: m, base_url: 'http://127.0.0.1:9/v1', limits: {retries: 1}}", cwd=project,
    )  # fmt: skip
    assert done.returncode == 1
    status = json.loads(meteor("status", "runs/sums", "--json", cwd=project).stdout)
    assert status["calls"]["student"] == {"made": 0, "reused": 0, "retried": 2, "failed": 2, "refused": 0, "filtered": 0}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("student={backend: transformers, model: org/name}", "'org/name' is no folder on this machine"),
        ("student={backend: transformers, model: smollm2-135m}", "meteor models fetch smollm2-135m"),
        ("student={backend: transformers, model: half}", "it lacks config.json"),
        ("student={backend: reference}", "cannot be trained here"),
    ],
)
def test_a_student_that_training_cannot_start_from_is_said_before_it_is_loaded(
    project: Path, change: str, complaint: str
) -> None:
    (project / "half").mkdir()
    done = meteor("refine", "meteor.yaml", "--set", change, cwd=project, env={"METEOR_CACHE": str(project / "cache")})
    assert (done.returncode, complaint in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("where", ["training.config=zreo2", "refine.training.config=mine.json"])
def test_a_training_configuration_is_tried_before_any_call(project: Path, where: str) -> None:
    (project / "mine.json").write_text('{"optimizer": {"type": "Adam"}}')
    student = project / "student"
    student.mkdir()
    for name in ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json"):
        (student / name).write_text("{}")
    complaint = f"training.config {'zreo2' if 'zreo2' in where else project / 'mine.json'}"
    args = ["meteor.yaml", "--set", "student={backend: transformers, model: student}", "--set", where]
    done = meteor("refine", *args, cwd=project)
    assert (done.returncode, complaint in done.stderr.replace("'", "")) == (2, True), done.stderr


def test_the_budget_ends_with_3(project: Path) -> None:
    done = meteor("refine", "meteor.yaml", "--no-train", "--set", "budget.tokens=10", cwd=project)
    assert done.returncode == 3, done.stderr
    assert "raise it to continue" in done.stderr


def start_slow(project: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "meteor_agents.cli", "refine", "meteor.yaml", "--no-train"],
        cwd=project, env={**os.environ, "TOY_SLEEP": "0.3"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while not (project / "asked.txt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def asked(project: Path) -> int:
    return len((project / "asked.txt").read_text().split())


def test_the_first_interrupt_drains_and_the_run_goes_on_later(project: Path) -> None:
    process = start_slow(project)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "stopping" in out
    assert "run the same command to continue" in err
    assert asked(project) < 30
    assert meteor("refine", "meteor.yaml", "--no-train", cwd=project).returncode == 0
    assert asked(project) == 30, "what was in flight was finished and stored"


def test_the_second_interrupt_stops_now(project: Path) -> None:
    process = start_slow(project)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert meteor("refine", "meteor.yaml", "--no-train", cwd=project).returncode == 0


def test_kill_9_and_the_same_command_loses_only_what_was_in_flight(project: Path) -> None:
    process = start_slow(project)
    time.sleep(0.7)
    process.kill()
    process.communicate()
    assert meteor("refine", "meteor.yaml", "--no-train", cwd=project).returncode == 0
    assert 30 <= asked(project) <= 32


def test_init_makes_a_project_that_loads_and_refuses_to_overwrite(tmp_path: Path) -> None:
    assert meteor("init", "mine", cwd=tmp_path).returncode == 0
    lint = meteor("prompts", "lint", "--dir", "mine/prompts", cwd=tmp_path)
    assert lint.returncode == 0, lint.stderr
    shown = meteor("prompts", "render", "student_attempt", "--config", "mine/meteor.yaml", cwd=tmp_path)
    assert "capital of France" in shown.stdout, shown.stderr
    again = meteor("init", "mine", cwd=tmp_path)
    assert (again.returncode, "not empty" in again.stderr) == (2, True)


def test_prompts_are_listed_shown_and_exported(tmp_path: Path) -> None:
    assert "student_attempt" in meteor("prompts", "list", cwd=tmp_path).stdout
    assert "{% block user %}" in meteor("prompts", "show", "judge_verdict", cwd=tmp_path).stdout
    wrong = meteor("prompts", "show", "judge_verdit", cwd=tmp_path)
    assert (wrong.returncode, "did you mean judge_verdict?" in wrong.stderr) == (2, True)
    exported = meteor("prompts", "export", "p", cwd=tmp_path)
    assert f"prompts: {{dir: {tmp_path / 'p'}}}" in exported.stdout
    assert meteor("prompts", "export", "p", cwd=tmp_path).returncode == 2


def test_looking_at_a_run_that_is_not_there_is_said(tmp_path: Path) -> None:
    for command in (["status", "runs/x"], ["traces", "runs/x"], ["export", "runs/x", "--what", "sft", "--out", "o"]):
        done = meteor(*command, cwd=tmp_path)
        assert done.returncode == 2
        assert "is not a run directory" in done.stderr


def test_check_tries_every_part_and_names_every_problem(project: Path) -> None:
    good = meteor("check", "meteor.yaml", cwd=project)
    assert good.returncode == 0, good.stderr
    assert "toy answers through scripted" in good.stdout
    assert "training: none" in good.stdout
    bad = meteor(
        "check", "meteor.yaml", "--set", "questions.path=x.jsonl", "--set", "budget.usd=1", "--set",
        "student={backend: transformers}", "--set", "judge={backend: openai, model: m}", cwd=project,
    )  # fmt: skip
    assert bad.returncode == 2
    for problem in ("no such questions file", "student.model is missing", "judge.price is missing", "judge.base_url"):
        assert problem in bad.stdout
