"""`meteor status` and `meteor traces`: what they show on a terminal, in a pipe and as JSON, also after a crash."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from meteor_agents.cli.newest_student import how_to_use, newest_student
from meteor_agents.store.records import Records
from meteor_agents.store.run_directory import RunDirectory
from tests.cli.test_cli import SETTINGS, TOY, meteor
from tests.support.terminal import on_terminal

LONG = "and so on " * 40


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with 60 traces of long questions."""
    folder = tmp_path_factory.mktemp("looked")
    (folder / "meteor.yaml").write_text(SETTINGS.replace("holdout: 4, gate: 2", "holdout: 0, gate: 0"))
    (folder / "toy.py").write_text(TOY)
    rows = [
        {"id": f"a-rather-long-id-{i:03d}", "question": f"What is {i} plus {4 - i}?\n{LONG}", "reference": "4"}
        for i in range(60)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = meteor("refine", "meteor.yaml", "--no-train", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_a_terminal_shows_whole_ids_stages_and_outcomes_and_cuts_the_text(project: Path, columns: int) -> None:
    code, said = on_terminal("traces", "runs/sums", cwd=project, columns=columns, env={"TERM": "xterm"})
    assert code == 0, said
    said = re.sub("\x1b\\[[0-9;]*m", "", said)  # the header is dim
    header, *rows = [line for line in said.splitlines() if "a-rather-long-id" in line or line.startswith("question")]
    assert header.split() == ["question", "stage", "outcome", "tries", "text"]
    assert len(rows) == 50
    for row in rows:
        assert columns - 2 <= len(row) <= columns
        assert row.split()[1:4] == ["refine", "accepted", "2"]
        assert len(row.split()[0]) == len("a-rather-long-id-000")
        assert row.rstrip().endswith("…")
    assert "The first 50" in said


def test_a_pipe_gets_every_trace_as_tab_separated_fields(project: Path) -> None:
    done = meteor("traces", "runs/sums", cwd=project)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(rows) == 60
    for id_, stage, outcome, tries, text in rows:
        assert (id_[:16], stage, outcome, tries) == ("a-rather-long-id", "refine", "accepted", "2")
        assert text.endswith("and so on and so on"), "in full, on one line"
    assert len(meteor("traces", "runs/sums", "--limit", "3", cwd=project).stdout.splitlines()) == 3


def test_traces_as_json_are_one_object_a_line(project: Path) -> None:
    done = meteor("traces", "runs/sums", "--json", "--limit", "4", cwd=project)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 4
    for row in rows:
        assert row.keys() == {"question_id", "stage", "outcome", "tries", "error", "question", "messages"}
        assert row["question"]["reference"] == "4"
        assert [message["kind"] for message in row["messages"]][:2] == ["attempt", "verdict"]
    one = meteor("traces", "runs/sums", rows[0]["question_id"], "--json", cwd=project)
    assert json.loads(one.stdout) == rows[0]


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["a-rather-long-id-01"], "no trace of the question 'a-rather-long-id-01'; did you mean 'a-rather-long-id-0"),
        (["zzzzzzzz"], "no trace of the question 'zzzzzzzz'; 60 other questions have traces; `meteor traces runs/sums`"),
        (["--stage", "refien"], "no trace in the stage refien; did you mean 'refine'?"),
        (["--outcome", "acepted"], "--outcome acepted: did you mean 'accepted'?"),
        (["--outcome", "failed"], "no trace with the outcome failed; `meteor traces runs/sums` lists all"),
    ],
)
def test_a_list_without_rows_says_why_in_words(project: Path, args: list[str], complaint: str) -> None:
    done = meteor("traces", "runs/sums", *args, cwd=project)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr
    assert "{" not in done.stderr


def test_a_closed_pipe_is_no_error_of_ours(project: Path) -> None:
    command = f"{sys.executable} -m meteor_agents.cli traces runs/sums --json | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=project, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout)
    assert done.stderr == ""


def states(project: Path, run: str = "runs/sums") -> dict[str, str]:
    status = json.loads(meteor("status", run, "--json", cwd=project).stdout)
    return {name: stage["state"] for name, stage in status["stages"].items()}


def test_a_killed_run_is_stopped_a_living_one_running_and_a_finished_one_done(project: Path) -> None:
    assert states(project) == {"refine": "done"}
    command = [sys.executable, "-m", "meteor_agents.cli", "refine", "meteor.yaml", "--no-train", "--run-dir", "runs/two"]
    process = subprocess.Popen(
        command, cwd=project, env={**os.environ, "TOY_SLEEP": "0.2"}, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    give_up = time.monotonic() + 60
    while not (project / "runs/two/log.jsonl").exists() or "StageStarted" not in (
        project / "runs/two/log.jsonl"
    ).read_text():
        assert time.monotonic() < give_up
        time.sleep(0.05)
    time.sleep(1)
    assert states(project, "runs/two") == {"refine": "running"}
    assert RunDirectory(project / "runs/two").in_use()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert states(project, "runs/two") == {"refine": "stopped"}
    assert "stopped" in meteor("status", "runs/two", cwd=project).stdout
    assert not RunDirectory(project / "runs/two").in_use()


def test_asking_whether_a_run_is_in_use_does_not_take_its_lock(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from meteor_agents.store.run_directory import RunDirectory\n"
        "with RunDirectory(pathlib.Path('run')):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    asked = RunDirectory(tmp_path / "run")
    assert not asked.in_use(), "there is no such folder"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert asked.in_use()
        assert asked.in_use(), "the first question has not given up the lock"
        holder.communicate("")
    assert not asked.in_use()
    with asked:
        pass


@pytest.mark.parametrize("command", [["status"], ["status", "--json"], ["traces"], ["export"]])
def test_damaged_bytes_are_an_error_that_says_what_to_do(project: Path, tmp_path: Path, command: list[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_bytes((project / "runs/sums/config.yaml").read_bytes())
    with closing(sqlite3.connect(project / "runs/sums/run.db")) as whole, closing(sqlite3.connect(run / "run.db")) as copy:
        whole.backup(copy)
    content = bytearray((run / "run.db").read_bytes())
    for start in range(8192, len(content) - 4096, 8192):
        content[start : start + 2048] = b"\xde\xad" * 1024
    (run / "run.db").write_bytes(content)
    options = ["--what", "sft", "--out", str(tmp_path / "out.jsonl")] if command == ["export"] else command[1:]
    done = meteor(command[0], str(run), *options, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "damaged" in done.stderr
    assert "permissions" not in done.stderr
    assert not (tmp_path / "out.jsonl").exists()


class Lineage(Records):
    """The records of a run that has arrived at these checkpoints."""

    def __init__(self, lineage: dict[str, str]) -> None:
        super().__init__(sqlite3.connect(":memory:"), Path(":memory:"))
        self.labels = lineage

    def lineage(self) -> dict[str, str]:
        return self.labels


def test_the_newest_student_is_the_last_trained_checkpoint_that_is_on_the_disk(tmp_path: Path) -> None:
    for version in ("finetune-0a", "refine-2-0b"):
        (tmp_path / version).mkdir()
    cases: list[tuple[dict[str, str], str | None]] = [
        ({}, None),
        ({"base": "base-1"}, None),
        ({"base": "base-1", "finetune": "base-1"}, None),
        ({"base": "base-1", "finetune": "finetune-0a"}, "finetune-0a"),
        ({"refine": "refine-2-0b", "base": "base-1", "finetune": "finetune-0a"}, "refine-2-0b"),
        ({"base": "base-1", "refine": "refine-2-0b", "self-train": "self-train-1-gone"}, "refine-2-0b"),
    ]
    for lineage, newest in cases:
        with closing(Lineage(lineage)) as records:
            assert newest_student(records, tmp_path) == (tmp_path / newest if newest else None)
    assert str(tmp_path / "x") in how_to_use(tmp_path / "x")[0]
