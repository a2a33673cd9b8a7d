"""What a run says of questions that it sets apart, of replies that are not whole, and of a system short of files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from meteor_agents.method.replies import CRITERIA
from meteor_agents.traces import Outcome
from tests.outside.odd_server import OddServer, Project, completion

SCORES = completion(json.dumps({"justification": "j", **dict.fromkeys(CRITERIA, 7)}))


def apart(folder: Path, **questions: int) -> None:
    """Take questions out of the training questions."""
    settings = json.loads((folder / "meteor.yaml").read_text())
    settings["questions"].update(questions)
    (folder / "meteor.yaml").write_text(json.dumps(settings))


def test_a_run_says_when_it_begins_that_the_gates_questions_are_set_apart(tmp_path: Path) -> None:
    with OddServer().running() as server:
        project = Project(tmp_path, server, questions=40)
        apart(tmp_path, gate=16)
        said = project.refine()
        assert "16 of the 40 questions that are not held out are set apart for the gate" in said
        assert server.asked == {"student": 24, "judge": 24}
        apart(tmp_path, gate=0)
        assert "set apart for the gate" not in project.refine()


@pytest.mark.parametrize(("finish", "asked_again"), [("length", 0), ("content_filter", 0), ("refusal", 0), ("error", 5)])
def test_a_held_out_reply_that_is_not_whole_is_shown_to_no_judge(tmp_path: Path, finish: str, asked_again: int) -> None:
    answers = {"student": (200, completion("Answer: right", finish)), "judge": (200, SCORES)}
    with OddServer(answers).running() as server:
        project = Project(tmp_path, server, questions=12)
        apart(tmp_path, holdout=5)
        said = project.meteor("evaluate", "meteor.yaml", "--no-train")
        assert "no verdict (5 of 5 not complete)" in said
        assert server.asked == {"student": 5}
        project.meteor("evaluate", "meteor.yaml", "--no-train")
        assert server.asked == {"student": 5 + asked_again}


def test_a_held_out_reply_that_was_cut_is_wrong_by_a_verifier(tmp_path: Path) -> None:
    with OddServer({"student": (200, completion("Answer: right", "length"))}).running() as server:
        project = Project(tmp_path, server, questions=12, judge={"verifier": "exact"})
        apart(tmp_path, holdout=5)
        assert "0.0%" in project.meteor("evaluate", "meteor.yaml", "--no-train")
        server.answers.clear()
        project.meteor("evaluate", "meteor.yaml", "--no-train")
        assert server.asked == {"student": 5}, "a cut reply is settled: it was paid for"


def test_too_few_files_for_the_concurrency_are_no_fault_of_the_questions(tmp_path: Path) -> None:
    with OddServer().running() as server:
        project = Project(tmp_path, server, questions=60)
        settings = json.loads((tmp_path / "meteor.yaml").read_text())
        for role in ("student", "judge"):
            settings[role]["limits"] = {"concurrency": 512, "retries": 1}
        (tmp_path / "meteor.yaml").write_text(json.dumps(settings))
        command = f"ulimit -n 64; exec '{sys.executable}' -m meteor_agents.cli refine meteor.yaml --no-train"
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "this system lets a process open 64 files" in done.stdout + done.stderr
        assert [trace.outcome for trace in project.traces()] == [Outcome.ACCEPTED] * 60


def test_a_stage_in_which_many_fail_is_no_success(tmp_path: Path) -> None:
    refused = json.dumps({"error": {"message": "context of 8192 tokens exceeded"}}).encode()
    with OddServer({"judge": (400, refused)}).running() as server:
        project = Project(tmp_path, server, questions=4)
        rows = (tmp_path / "questions.jsonl").read_text().splitlines(keepends=True)
        (tmp_path / "questions.jsonl").write_text(rows[0])
        server.answers.clear()
        project.refine()
        server.answers["judge"] = (400, refused)
        (tmp_path / "questions.jsonl").write_text("".join(rows))
        assert "3 of 4 questions failed, more than fail_on (50%) allows" in project.refine(code=1)
        assert "3 failed" in project.refine("--set", "fail_on=0.8")
        server.answers.clear()
        assert "4 accepted" in project.refine()
