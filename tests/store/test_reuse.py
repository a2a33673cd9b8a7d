"""What an edited setting asks again, against a server that counts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from meteor_agents import prompts
from meteor_agents.store.records import open_for_reading
from tests.support.chat_server import ChatServer, running_server
from tests.support.server_project import Project, environment


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    with running_server() as server:
        yield server


@pytest.fixture
def project(tmp_path: Path, server: ChatServer) -> Project:
    return Project(tmp_path, server, questions=30)


def calls(project: Project) -> list[tuple[str, str, int, str, int]]:
    """(role, messages, max_tokens, finish reason, tokens said), in the order in which they were made."""
    with closing(open_for_reading(project.database)) as records:
        rows = records.read("SELECT role, request, max_tokens, finish_reason, output_tokens FROM calls ORDER BY rowid")
    return [(role, json.dumps(json.loads(request)["messages"]), *rest) for role, request, *rest in rows]


def test_a_raised_limit_asks_again_only_for_what_was_cut(project: Project) -> None:
    project.refine("--set", "student.sampling.max_tokens=20")
    before = calls(project)
    cut = {messages for role, messages, _, finish, _ in before if (role, finish) == ("student", "length")}
    whole = {messages for role, messages, _, finish, _ in before if (role, finish) == ("student", "stop")}
    assert cut
    assert whole
    said = project.refine("--set", "student.sampling.max_tokens=60")
    assert "stored replies that will be reused: student " in said
    asked = [messages for role, messages, *_ in calls(project)[len(before) :] if role == "student"]
    assert not set(asked) & whole
    assert {messages for messages in cut if "judged to be wrong" not in messages} <= set(asked)
    assert not any(message.attempts[0].truncated for message in project.traces().values())

    made = len(calls(project))
    project.refine("--set", "student.sampling.max_tokens=20")
    assert len(calls(project)) == made, "both limits' replies are kept"


def test_a_lowered_limit_asks_again_for_what_would_have_been_cut(project: Project) -> None:
    project.refine()
    before = calls(project)
    long = {m for role, m, _, _, said in before if role == "student" and said > 20}
    short = {m for role, m, _, _, said in before if role == "student" and said <= 20}
    assert long
    assert short
    project.refine("--set", "student.sampling.max_tokens=20")
    again = {messages for role, messages, *_ in calls(project)[len(before) :] if role == "student"}
    assert not again & short
    assert again & long


def test_another_prompt_for_the_judge_keeps_the_students_answers(project: Project) -> None:
    project.refine("--set", "refine.iterations=1")
    before = calls(project)
    assert [role for role, *_ in before].count("student") == 30
    mine = project.folder / "mine"
    mine.mkdir()
    template = Path(prompts.__file__).parent / "judge_verdict.jinja"
    (mine / template.name).write_text(template.read_text().replace("strict", "very strict"))
    said = project.refine("--set", "refine.iterations=1", "--set", f"prompts.dir={mine}")
    assert "reused: student 30" in said
    again = [role for role, *_ in calls(project)[len(before) :]]
    assert again.count("student") == 0
    assert again.count("judge") == 30
    status = project.status()
    assert (status["calls"]["student"]["made"], status["calls"]["student"]["reused"]) == (30, 30)
    assert status["stages"]["refine"]["accepted"] + status["stages"]["refine"]["exhausted"] == 30


def test_added_questions_are_the_only_ones_that_run(project: Project) -> None:
    held = ("--set", "questions.holdout=5", "--set", "questions.gate=3")
    project.refine(*held)
    before = calls(project)
    held_out = {f"q{i:03d}" for i in range(30)} - set(project.traces())
    assert len(held_out) == 8
    project.write_questions(42)
    assert "34 questions (22 done before)" in project.refine(*held)
    new = [messages for _, messages, *_ in calls(project)[len(before) :]]
    assert new
    assert not [m for m in new if not any(f"number {i}?" in m for i in range(30, 42))]
    assert set(project.traces()) == {f"q{i:03d}" for i in range(42)} - held_out


def test_questions_that_read_the_same_are_asked_once(project: Project) -> None:
    rows = [{"id": f"q{i:03d}", "question": f"What is number {i % 5}?"} for i in range(40)]
    (project.folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    project.refine()
    made = calls(project)
    assert len({call[:2] for call in made}) == len(made)
    assert len([m for role, m, *_ in made if role == "student" and "judged" not in m]) == 5
    traces = project.traces()
    assert len(traces) == 40
    assert all(traces[id_].messages == traces[f"q{int(id_[1:]) % 5:03d}"].messages for id_ in traces)


def test_replies_that_are_read_otherwise_are_not_asked_for_again(project: Project, server: ChatServer) -> None:
    project.refine()
    made, positions = len(calls(project)), _positions(project)
    program = (
        "import meteor_agents.pipeline.recipes as recipes; recipes.READING += 1\n"
        "from meteor_agents.cli.commands.run import RunRequest, run_stage\n"
        "run_stage('refine', RunRequest('meteor.yaml', no_train=True))"
    )
    subprocess.run(
        [sys.executable, "-c", program], cwd=project.folder, check=True, capture_output=True, timeout=120,
        env=environment(),
    )  # fmt: skip
    assert len(calls(project)) == made
    assert not _positions(project) & positions, "every trace was made again"


def _positions(project: Project) -> set[int]:
    with closing(open_for_reading(project.database)) as records:
        (stage,) = records.current_stages()
        return {row[0] for row in records.read("SELECT position FROM traces WHERE recipe = ?", stage.recipe)}


def test_an_option_that_may_change_replies_asks_again(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text("def one(m, s): return 'Answer: 1'\ndef two(m, s): return 'Answer: 2'\n")
    (tmp_path / "questions.jsonl").write_text(json.dumps({"id": "q", "question": "Two?", "reference": "2"}) + "\n")
    (tmp_path / "meteor.yaml").write_text(
        "{name: asked, domain: d, questions: {path: questions.jsonl, holdout: 0, gate: 0}, teacher: {backend: reference},"
        " student: {backend: scripted, model: m, function: 'toy:one'}, judge: {verifier: numeric}}"
    )
    outcomes = []
    for function in ("one", "two"):
        command = [sys.executable, "-m", "meteor_agents.cli", "refine", "meteor.yaml", "--no-train"]
        subprocess.run(
            [*command, "--set", f"student.function=toy:{function}"], cwd=tmp_path, check=True, capture_output=True,
            timeout=120,
        )  # fmt: skip
        with closing(open_for_reading(tmp_path / "runs/asked/run.db")) as records:
            outcomes += [trace.outcome.value for trace in records.current_traces()]
    assert outcomes == ["exhausted", "accepted"]


# money


def test_the_budget_is_overshot_by_no_more_than_the_calls_in_flight(project: Project) -> None:
    said = project.refine("--set", "budget.tokens=2000", code=3)
    assert "budget.tokens of 2,000 is likely to end this before it is done" in said
    assert "raise it to continue" in said
    used = _used(project)
    reached = next(i for i, total in enumerate(_running(used)) if total >= 2000)
    assert len(used) - 1 - reached < 8, "one call a conversation is in flight, and there are eight conversations"
    assert project.status()["stages"]["refine"]["state"] == "stopped"
    project.refine("--set", "budget.tokens=1000000")
    assert project.status()["stages"]["refine"]["state"] == "done"


def test_a_call_that_waits_for_its_turn_is_not_sent_after_the_budget(project: Project) -> None:
    price = ("--set", "judge.price={input: 1000, output: 1000}", "--set", "student.price={input: 0, output: 0}")
    alone = ("--set", "judge.limits.concurrency=1", "--set", "teacher.price={input: 0, output: 0}")
    project.refine(*price, *alone, "--set", "budget.usd=1", code=3)
    with closing(open_for_reading(project.database)) as records:
        paid = [usd for (usd,) in records.read("SELECT usd FROM calls WHERE role = 'judge' ORDER BY rowid")]
        assert records.spent().usd == pytest.approx(sum(paid))
    assert sum(paid) >= 1
    assert sum(paid[:-1]) < 1, "no call that cost anything was sent once the budget was reached"


def test_an_unknown_price_is_said_to_be_unknown(project: Project) -> None:
    project.refine("--set", "student.price={input: 1, output: 1}", "--limit", "5")
    assert project.status()["usd"] is None
    shown = project("status", "runs/asked")
    assert "US dollars and an unknown amount: no price is known for" in shown
    assert "the judge's calls (judge.price)" in shown
    assert "US dollars" in project("estimate", "meteor.yaml", "--stage", "refine", "--no-train")


def _used(project: Project) -> list[int]:
    with closing(open_for_reading(project.database)) as records:
        return [n for (n,) in records.read("SELECT input_tokens + output_tokens FROM calls ORDER BY rowid")]


def _running(values: list[int]) -> list[int]:
    return [sum(values[: i + 1]) for i in range(len(values))]


# estimates


def test_an_estimate_asks_no_one_and_says_afterwards_how_far_off_it_was(project: Project, server: ChatServer) -> None:
    before = len(server.log())
    price = [f"--set={role}.price={{input: 1, output: 2}}" for role in ("student", "judge", "teacher")]
    told = project("estimate", "meteor.yaml", "--stage", "refine", "--no-train", *price)
    assert "50% of the attempts are judged incorrect (assumed)" in told
    assert len(server.log()) == before
    assert not (project.folder / "runs").exists()

    assert "estimate: calls: student " in project.refine(*price)
    made = len(server.log()) - before
    shown = project("status", "runs/asked")
    assert "used so far, against the estimate when `meteor refine` began" in shown
    spent = project.status()["calls"]
    assert sum(row["made"] for row in spent.values()) == made
    assert f"student: {spent['student']['made']} of 5" in shown, "30 questions, 1.75 tries expected"

    again = project("estimate", "meteor.yaml", "--stage", "refine", "--no-train", *price)
    assert _cells(again, "student")[:2] == ["0", "0"]
    edited = project(
        "estimate", "meteor.yaml", "--stage", "refine", "--no-train", "--set", "refine.iterations=4", *price
    )
    assert int(_cells(edited, "student")[1]) == spent["student"]["made"], "every reply of before is honoured"
    assert 0 < int(_cells(edited, "student")[0]) < 30
    assert "(as in this run so far)" in edited


def _cells(table: str, role: str) -> list[str]:
    """calls, reused, tokens in, tokens out, US dollars"""
    line = next(line for line in table.splitlines() if f" {role} " in line and "│" in line)
    return [cell.strip() for cell in line.split("│")[2:-1]]


def test_a_copy_of_a_run_directory_is_the_same_run(project: Project, server: ChatServer) -> None:
    project.refine()
    shutil.copytree(project.folder / "runs", project.folder / "elsewhere")
    before = len(server.log())
    project.refine("--run-dir", "elsewhere/asked")
    assert len(server.log()) == before
