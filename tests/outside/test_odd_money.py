"""What a run pays: nothing twice, nothing beyond its budget, and a question that failed is asked again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from meteor_agents.traces import Outcome
from tests.outside.odd_server import CORRECT, RIGHT, OddServer, Project, completion

NO_CREDIT = json.dumps({"error": {"code": 402, "message": "Insufficient credits"}}).encode()


@pytest.mark.parametrize("answer", [(402, NO_CREDIT), (200, NO_CREDIT)])
def test_a_run_without_credit_stops_and_after_a_top_up_the_same_command_asks_again(
    tmp_path: Path, answer: tuple[int, bytes]
) -> None:
    with OddServer({"student": answer}).running() as server:
        project = Project(tmp_path, server, questions=12)
        assert "credit" in project.refine(code=1)
        assert server.total <= 2, "no more than those in flight"
        server.answers.clear()
        project.refine()
        assert [trace.outcome for trace in project.traces()] == [Outcome.ACCEPTED] * 12


def test_without_retry_failed_a_finished_stage_stays_as_it_is(tmp_path: Path) -> None:
    failing = json.dumps({"error": {"message": "context of 8192 tokens exceeded"}}).encode()
    with OddServer().running() as server:
        project = Project(tmp_path, server, fail_on=0.9)
        rows = [{"id": f"q{i}", "question": f"What is number {i}?"} for i in range(3)]
        (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
        project.refine()
        (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        server.answers["student"] = (400, failing)
        assert "1 failed" in project.refine()
        server.answers.clear()
        asked = server.total
        project.refine("--set", "retry_failed=false")
        assert server.total == asked
        assert "3 accepted" in project.refine()
        assert server.total == asked + 2


@pytest.mark.parametrize(
    ("role", "answer", "odd_calls"),
    [("judge", (200, completion("Hm.")), None), ("student", (400, b'{"error": {"message": "bad input"}}'), 1)],
)
def test_without_retry_failed_an_evaluation_asks_for_no_unreadable_or_failed_reply_again(
    tmp_path: Path, role: str, answer: tuple[int, bytes], odd_calls: int | None
) -> None:
    with OddServer({role: answer}, odd_calls).running() as server:
        project = Project(tmp_path, server, questions=4, fail_on=1)
        settings = json.loads((tmp_path / "meteor.yaml").read_text())
        settings["questions"]["holdout"] = 2
        (tmp_path / "meteor.yaml").write_text(json.dumps(settings))
        project.meteor("evaluate", "meteor.yaml")
        asked = server.total
        for _ in range(2):
            project.meteor("evaluate", "meteor.yaml", "--no-retry-failed")
            assert server.total == asked, server.asked
        project.meteor("evaluate", "meteor.yaml")
        assert server.total > asked


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": -1_000_000, "completion_tokens": -5}, {"prompt_tokens": 10**30}, "many"]
)
def test_a_budget_in_tokens_holds_where_the_usage_is_absent_or_absurd(tmp_path: Path, usage: Any) -> None:
    answers = {"student": (200, completion(RIGHT, usage=usage)), "judge": (200, completion(CORRECT, usage=usage))}
    with OddServer(answers).running() as server:
        project = Project(tmp_path, server, questions=40, budget={"tokens": 500, "usd": 0.001})
        assert "budget" in project.refine(code=3)
        assert server.total < 40


def test_calls_that_are_charged_for_nothing_count_towards_the_budget(tmp_path: Path) -> None:
    nothing = json.dumps({"choices": [], "usage": {"prompt_tokens": 100_000}}).encode()
    with OddServer({"student": (200, nothing)}).running() as server:
        project = Project(tmp_path, server, questions=40, budget={"tokens": 250_000})
        project.refine(code=(1, 3))
        assert server.total <= 5, "three calls use the budget up, and two may be in flight"


@pytest.mark.parametrize("damage", ["removed", "empty", "without its log"])
def test_a_run_whose_store_is_gone_is_not_paid_for_again(tmp_path: Path, damage: str) -> None:
    with OddServer().running() as server:
        project = Project(tmp_path, server)
        project.refine()
        paid, database = server.total, project.run / "run.db"
        kept = tmp_path / "kept.db"
        shutil.copy(database, kept)
        for path in project.run.glob("run.db*"):
            path.unlink()
        if damage == "empty":
            database.touch()
        elif damage == "without its log":
            database.write_bytes(b"SQLite format 3\0")
        said = project.refine(code=1)
        assert str(database.name) in said
        assert server.total == paid, said
        shutil.copy(kept, database)
        project.refine()
        assert server.total == paid


def test_the_lock_of_a_killed_run_is_free_at_once_and_a_second_command_is_refused_before(tmp_path: Path) -> None:
    with OddServer().running() as server:
        project = Project(tmp_path, server, judge={"verifier": "slow:slow"})
        (tmp_path / "slow.py").write_text("import time\ndef slow(question, answer):\n    time.sleep(60)\n    return True\n")
        command = [sys.executable, "-m", "meteor_agents.cli", "refine", "meteor.yaml", "--no-train"]
        run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while server.total < 2:
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(0.5)  # the verifier works
        assert f"is in use by another meteor (process {run.pid})" in project.refine(code=1)
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        (tmp_path / "slow.py").write_text("def slow(question, answer):\n    return True\n")
        project.refine()
        assert [trace.outcome for trace in project.traces()] == [Outcome.ACCEPTED] * 3
