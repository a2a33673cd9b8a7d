"""Kill -9 at any moment, then the same command: the run ends as if it had never been interrupted, and asks little twice.

Real processes throughout: `meteor`, the server that counts, and for updates a process that kills itself at a boundary.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from meteor_agents.store.records import open_for_reading
from tests.support.chat_server import ChatServer, request_hash, running_server
from tests.support.server_project import Project
from tests.support.update_program import BOUNDARIES, begin

CONCURRENCY = 8


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with running_server(delay_s=0.02) as server:
        yield server


def stored_requests(project: Project) -> set[str]:
    """What the store holds a reply to, as the server would write it in its log."""
    with closing(open_for_reading(project.database)) as records:
        rows = records.read("SELECT role, request FROM calls")
    asked = [(role, json.loads(request)) for role, request in rows]
    return {
        request_hash({"model": role, "messages": r["messages"], "max_tokens": r["sampling"]["max_tokens"]})
        for role, r in asked
    }


def kill_after(project: Project, server: ChatServer, requests: int) -> None:
    """Kill -9 once the server was asked so many more times, or let the run end before."""
    before = server.count()
    process = project.start()
    while process.poll() is None and server.count() - before < requests:
        time.sleep(0.005)
    process.kill()
    process.communicate()


def test_a_run_that_is_killed_at_many_random_moments_ends_like_an_uninterrupted_one(
    tmp_path: Path, server: ChatServer
) -> None:
    whole = Project(tmp_path / "whole", server, questions=60)
    whole.refine()
    expected, once = whole.traces(), len(server.log())
    assert {trace.tries for trace in expected.values()} == {1, 2, 3}

    killed = Project(tmp_path / "killed", server, questions=60)
    chance = random.Random(7)
    kills, asked_before, answered = 0, len(server.log()), set[str]()
    for _ in range(8):
        kill_after(killed, server, chance.randint(1, 30))
        kills += 1
        repeated = answered & set(server.log()[asked_before:])
        assert not repeated, "a reply that was in the store was asked for again"
        asked_before, answered = len(server.log()), stored_requests(killed)
    killed.refine()
    assert not answered & set(server.log()[asked_before:])

    assert killed.traces() == expected
    asked = Counter(server.log()[once:])
    in_flight = 2 * CONCURRENCY  # that of the student, and that of the judge
    assert asked.total() - len(asked) <= kills * in_flight, "at most what was in flight is asked for again"
    status, whole_status = killed.status(), whole.status()
    for name in ("tokens", "usd", "rounds", "scores"):
        assert status[name] == whole_status[name]
    assert {role: row["made"] for role, row in status["calls"].items()} == {
        role: row["made"] for role, row in whole_status["calls"].items()
    }


def test_the_lock_of_a_killed_process_needs_no_one(tmp_path: Path, server: ChatServer) -> None:
    project = Project(tmp_path, server, questions=60)
    first = project.start()
    while first.poll() is None and not server.count():
        time.sleep(0.01)
    refused = project.refine(code=1)
    assert f"in use by another meteor (process {first.pid})" in refused
    first.kill()
    first.communicate()
    project.refine()
    assert project.status()["stages"]["refine"]["state"] == "done"


def finished(folder: Path) -> dict[str, Any]:
    """All that an uninterrupted run and a resumed one must agree on."""
    with closing(open_for_reading(folder / "run.db")) as records:
        stages = [stage._replace(seconds=0) for stage in records.current_stages()]
        return {
            "stages": stages,
            "traces": list(records.current_traces()),
            "rounds": [(round_.stage, round_.round, round_.traces, round_.checkpoint, round_.promoted, round_.reason)
                       for stage in stages for round_ in records.rounds(stage.name, stage.recipe)],
            "scores": sorted(records.read("SELECT checkpoint, heldout, question_id, result FROM scores")),
            "lineage": records.lineage(),
            "calls": sorted(records.read("SELECT key, weights, reply FROM calls")),
            "made": records.spent().calls,
            "folders": sorted(path.name for path in (folder / "checkpoints").iterdir()),
        }  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    begin(folder, "never")
    found = finished(folder)
    assert [name for name, *_ in found["rounds"]] == ["finetune", *["refine"] * 3, "self-train"]
    assert found["made"] == len(found["calls"])
    return found


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_run_that_is_killed_around_an_update_ends_like_an_uninterrupted_one(
    tmp_path: Path, uninterrupted: dict[str, Any], boundary: str
) -> None:
    killed = subprocess.run(
        [sys.executable, "-m", "tests.support.update_program", str(tmp_path), boundary],
        cwd=Path(__file__).parents[2], env={**os.environ}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    trained = (tmp_path / "trained.txt").read_text().split() if (tmp_path / "trained.txt").exists() else []
    begin(tmp_path, "never")
    assert finished(tmp_path) == uninterrupted
    again = (tmp_path / "trained.txt").read_text().split()[len(trained) :]
    assert not set(trained) & set(again), "what was trained is not trained again"
