"""The engine against a server that fails in every way, through the real command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from meteor_agents.messages import Status
from meteor_agents.store.records import open_for_reading
from meteor_agents.traces import Outcome, Trace
from tests.support.faulty_server import FaultyServer, faulty_server, free_port

ACCEPTED = [
    "",
    "[student: 429]",
    "[student: 429-after]",
    "[judge: 429-clock]",
    "[student: 500]",
    "[judge: 503-html]",
    "[student: reset]",
    "[judge: reset]",
    "[student: hang]",
    "[judge: hang]",
    "[student: half-json]",
    "[judge: html]",
    "[student: empty]",
    "[student: length]",
    "[student: cut]",
]
"""Each ends well, after some tries."""
FAILED = {
    "[student: overflow always]": "answered 400 Bad Request: context of 8192 tokens exceeded",
    "[student: half-json always]": "sent no chat completion",
    "[student: hang always]": "no reply",
    "[judge: 500 always]": "answered 500 Internal Server Error: it broke",
    "[judge: no-verdict always]": "holds no JSON object",
    "[judge: not-correct always]": "holds no JSON object",
    "[judge: both always]": "they differ",
    "[student: inject always] [judge: echo always]": "holds no JSON object",
}
"""Each ends as a failed trace that says this."""


EXHAUSTED = ["[student: cut always]"]
"""The judge would accept each try."""


JUMPING_CLOCK = """
import itertools, pathlib, time

real, jumps = time.time, itertools.cycle((0, -7200, 86400, 0, 3600, -86400))
time.time = lambda: real() + next(jumps)
(pathlib.Path(__file__).parent / "jumped").touch()
"""
"""What Python runs before anything else: the time of day goes hours back and forth at every look."""


class Project:
    """`meteor refine --no-train` on questions that say what is to go wrong."""

    def __init__(self, folder: Path, questions: list[str], student: str, judge: str, **limits: Any) -> None:
        self.folder = folder
        self.questions = questions
        rows = [{"id": f"q{i:03d}", "question": f"question {i} {text}"} for i, text in enumerate(questions)]
        (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        role = {"backend": "openai", "limits": {"concurrency": 16, "retries": 4, "timeout_s": 2, **limits}}
        settings = {
            "name": "faults",
            "domain": "faults",
            "questions": {"path": "questions.jsonl", "holdout": 0, "gate": 0},
            "student": {**role, "model": "student", "base_url": student},
            "teacher": {"backend": "reference"},
            "judge": {**role, "model": "judge", "base_url": judge},
        }
        (folder / "meteor.yaml").write_text(json.dumps(settings))
        self.environment = dict(os.environ)

    def let_the_clock_jump(self) -> None:
        (self.folder / "sitecustomize.py").write_text(JUMPING_CLOCK)
        others = filter(None, [os.environ.get("PYTHONPATH")])
        self.environment["PYTHONPATH"] = os.pathsep.join([str(self.folder), *others])

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "meteor_agents.cli", "refine", "meteor.yaml", "--no-train"]

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip

    def __call__(self, code: int = 0) -> str:
        with self.start() as run:
            said = run.communicate(timeout=240)[0]
        assert run.returncode == code, said
        assert "Traceback" not in said
        return said

    def traces(self) -> dict[str, Trace]:
        with closing(open_for_reading(self.folder / "runs" / "faults" / "run.db")) as records:
            found = list(records.current_traces())
        assert len({trace.question.id for trace in found}) == len(found)
        return {self.questions[int(trace.question.id[1:])]: trace for trace in found}

    def log(self, event: str) -> list[dict[str, Any]]:
        lines = (self.folder / "runs" / "faults" / "log.jsonl").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["event"] == event]


def test_every_question_is_accounted_for_whatever_the_servers_do(tmp_path: Path) -> None:
    port = free_port()
    with ExitStack() as servers:
        student = servers.enter_context(faulty_server(FaultyServer()))
        judge = servers.enter_context(faulty_server(FaultyServer(), port=port, after_s=2.5))  # refuses until then
        project = Project(tmp_path, [*ACCEPTED, *FAILED, *EXHAUSTED], student.url, f"http://127.0.0.1:{port}/v1")
        project.let_the_clock_jump()
        project()
        traces = project.traces()
    assert (tmp_path / "jumped").exists()
    assert traces.keys() == {*ACCEPTED, *FAILED, *EXHAUSTED}
    for text in ACCEPTED:
        assert traces[text].outcome is Outcome.ACCEPTED, (text, traces[text].error)
        assert not traces[text].accepted_attempt.truncated  # type: ignore[union-attr]  # it is accepted
    for text, reason in FAILED.items():
        assert traces[text].outcome is Outcome.FAILED, text
        assert reason in (traces[text].error or ""), text
        assert not any(getattr(message, "status", None) is Status.CORRECT for message in traces[text].messages)
    for text in EXHAUSTED:
        assert traces[text].outcome is Outcome.EXHAUSTED, text
        assert {turn.verdict.model for turn in traces[text].turns} == {"max_tokens"}
    assert judge.asked["judge", "0"] >= 1
    last = project.log("Progressed")[-1]
    counts = {"accepted": len(ACCEPTED), "failed": len(FAILED), "exhausted": len(EXHAUSTED)}
    assert (last["done"], last["outcomes"]) == (sum(counts.values()), counts)
    roles = {role["role"]: role for role in last["roles"]}
    assert all(role["in_flight"] == 0 and role["retried"] > 3 for role in roles.values())
    assert {event["question_id"] for event in project.log("QuestionLate")} == {"q008", "q009", "q017"}
    assert project.log("CallRetried")


def test_a_server_that_refuses_everything_is_given_up_and_the_same_command_goes_on_later(tmp_path: Path) -> None:
    port = free_port()
    questions = ["[student: overflow]" for _ in range(90)]
    with faulty_server(FaultyServer(), port=port) as server:
        project = Project(tmp_path, questions, server.url, server.url)
        said = project(code=1)
        assert f"the server http://127.0.0.1:{port}/v1 is given up: 30 of its last 30 calls failed" in said
        assert "run the same command to continue" in said
        assert sum(server.asked.values()) < 60
        for key in [("student", str(i)) for i in range(90)]:
            server.asked[key] = 2  # from now on all is well
        assert "90 accepted" in project()


def test_the_first_interrupt_drains_with_a_count_and_the_run_goes_on_later(tmp_path: Path) -> None:
    with faulty_server(FaultyServer()) as server:
        project = Project(tmp_path, ["", "[student: hang]", ""], server.url, server.url, timeout_s=2)
        with project.start() as run:
            give_up = time.monotonic() + 60
            while server.asked["judge", "2"] == 0:
                assert time.monotonic() < give_up
                time.sleep(0.05)
            time.sleep(0.3)
            run.send_signal(signal.SIGINT)
            said = run.communicate(timeout=60)[0]
        assert run.returncode == 130, said
        assert "stopping: finishing 1 call in flight" in said
        assert "3 accepted" in project()
        assert server.asked["judge", "0"] == 1


def test_the_second_interrupt_stops_now(tmp_path: Path) -> None:
    with faulty_server(FaultyServer()) as server:
        project = Project(tmp_path, ["[student: hang always]"], server.url, server.url, timeout_s=600)
        with project.start() as run:
            give_up = time.monotonic() + 60
            while not server.asked:
                assert time.monotonic() < give_up
                time.sleep(0.05)
            run.send_signal(signal.SIGINT)
            time.sleep(0.5)
            run.send_signal(signal.SIGINT)
            said = run.communicate(timeout=60)[0]
        assert run.returncode == 130, said
