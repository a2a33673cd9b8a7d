"""Disks that are full or read-only, and stores that are damaged: one message, exit 1, and what was committed is there."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from meteor_agents.errors import StoreError
from meteor_agents.store.records import open_for_reading
from meteor_agents.store.run_directory import RunDirectory
from meteor_agents.store.store import Store
from tests.support.chat_server import ChatServer, running_server
from tests.support.server_project import Project, environment


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    with running_server() as server:
        yield server


@pytest.fixture
def project(tmp_path: Path, server: ChatServer) -> Project:
    return Project(tmp_path, server, questions=60)


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A file system of its own on `folder`; skips where that is not allowed."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a file system needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fails(project: Project, *args: str, preexec: Callable[[], None] | None = None) -> str:
    done = subprocess.run(
        project.command("refine", "--no-train", *args), cwd=project.folder, capture_output=True, text=True, timeout=120,
        stdin=subprocess.DEVNULL, env=environment(), preexec_fn=preexec,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stderr


def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(tmp_path: Path, project: Project) -> None:
    small = tmp_path / "small"
    small.mkdir()
    with mounted(small, "size=300k"):
        said = fails(project, "--run-dir", str(small / "run"))
        assert "what was committed is still there" in said
        with closing(open_for_reading(small / "run" / "run.db")) as records:
            kept = records.spent().calls
        assert kept > 0
        subprocess.run(["mount", "-o", "remount,size=50m", str(small)], check=True)
        project.refine("--run-dir", str(small / "run"))
        with closing(open_for_reading(small / "run" / "run.db")) as records:
            assert len(list(records.current_traces())) == 60
            assert records.spent().calls > kept


def test_a_limit_on_the_size_of_files_ends_the_run_in_words(project: Project) -> None:
    limit = 150_000
    said = fails(project, preexec=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert "what was committed is still there" in said
    with closing(open_for_reading(project.database)) as records:
        kept = records.spent().calls
    assert kept > 0
    project.refine()
    assert project.status()["stages"]["refine"]["state"] == "done"
    assert project.status()["calls"]["student"]["made"] < kept + 200


def test_a_read_only_folder_is_said_and_an_earlier_run_there_can_be_read(tmp_path: Path, project: Project) -> None:
    project.refine()
    expected = project.traces()
    place = tmp_path / "place"
    place.mkdir()
    with mounted(place, "size=20m"):
        shutil.copytree(project.folder / "runs" / "asked", place / "asked")
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        assert "cannot be used as a run directory: Read-only file system" in fails(
            project, "--run-dir", str(place / "asked")
        )
        assert "cannot be used as a run directory" in fails(project, "--run-dir", str(place / "new"))
        with closing(open_for_reading(place / "asked" / "run.db")) as records:
            assert {trace.question.id: trace for trace in records.current_traces()} == expected
        shown = subprocess.run(
            [sys.executable, "-m", "meteor_agents.cli", "status", str(place / "asked")], capture_output=True, text=True,
            timeout=60, check=True,
        )  # fmt: skip
        assert "refine" in shown.stdout


@pytest.mark.parametrize("damage", ["cut", "garbage in the middle", "garbage from the start"])
def test_a_damaged_store_is_said_by_every_command_and_left_as_it_is(project: Project, damage: str) -> None:
    project.refine()
    content = bytearray(project.database.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 3]
    elif damage == "garbage in the middle":
        content[4096:] = os.urandom(len(content) - 4096)
    else:
        content[:4096] = os.urandom(4096)
    project.database.write_bytes(content)
    for command in (
        project.command("refine", "--no-train"),
        [sys.executable, "-m", "meteor_agents.cli", "status", "runs/asked"],
        [sys.executable, "-m", "meteor_agents.cli", "traces", "runs/asked"],
        [sys.executable, "-m", "meteor_agents.cli", "export", "runs/asked", "--what", "sft", "--out", "o.jsonl"],
    ):
        done = subprocess.run(command, cwd=project.folder, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        assert "run.db cannot be" in done.stderr
        assert "the file is damaged" in done.stderr
    assert project.database.read_bytes() == bytes(content)
    project.refine("--fresh")
    (aside,) = (path for path in (project.folder / "runs").iterdir() if path.name != "asked")
    assert (aside / "run.db").read_bytes() == bytes(content)


@pytest.mark.parametrize("loss", ["emptied", "removed", "copied while the run went on, without its write-ahead log"])
def test_a_store_that_is_lost_is_not_started_over_silently(
    project: Project, server: ChatServer, tmp_path: Path, loss: str
) -> None:
    project.refine("--limit", "2")
    if loss == "emptied":
        project.database.write_bytes(b"")
    elif loss == "removed":
        project.database.unlink()
    else:
        live = Store(tmp_path / "live.db")
        content = (tmp_path / "live.db").read_bytes()
        live.close()
        assert content
        project.database.write_bytes(content)
    asked = len(server.log())
    said = fails(project)
    assert f"is {'missing' if loss == 'removed' else 'empty'}, though a run was held here" in said
    assert "start over with --fresh, which pays for every call again and keeps this folder aside" in said
    assert len(server.log()) == asked
    project.refine("--limit", "2", "--fresh")
    assert project.status()["stages"]["refine"]["state"] == "done"


# versions


def test_a_store_of_version_1_is_refused_in_words(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "run.db")) as connection:
        connection.executescript("CREATE TABLE calls (key TEXT); PRAGMA user_version = 1;")
    for opened in (Store, open_for_reading):
        with pytest.raises(StoreError, match=r"store version 1, this meteor reads version 3; use the meteor that wrote"):
            opened(tmp_path / "run.db")


def test_a_store_of_version_2_written_by_earlier_code_opens_and_serves_its_replies(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parent / "version-2.db", tmp_path / "run.db")
    with closing(Store(tmp_path / "run.db")) as store:
        assert store.spent().calls == 12
        assert [trace.outcome.value for trace in store.current_traces()].count("accepted") == 2
        ((key, weights, limit, reply),) = store.read("SELECT key, weights, max_tokens, reply FROM calls LIMIT 1")
        found = store.find_call(key, [weights], limit)
        assert found is not None
        assert found.text == reply


def test_a_store_of_a_newer_version_is_refused_in_words(project: Project) -> None:
    project.refine("--limit", "2")
    with closing(sqlite3.connect(project.database)) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert "has store version 99, this meteor reads version 3; use the meteor that wrote it" in fails(project)


def test_a_run_directory_that_cannot_be_locked_is_said(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.lock").mkdir()
    with pytest.raises(StoreError, match="cannot be used as a run directory: Is a directory"):
        RunDirectory(tmp_path / "run").__enter__()
