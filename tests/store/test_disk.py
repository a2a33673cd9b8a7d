"""Disks that are full or read-only, and stores that are damaged: one message, exit 1, and what was committed is there."""

from __future__ import annotations

import json
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
from meteor_agents.store.run_directory import RunDirectory
from meteor_agents.store.store import Store, open_for_reading
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
        [sys.executable, "-m", "meteor_agents.cli", "export", "runs/asked", "--what", "sft", "--out", "o.jsonl"],
    ):
        done = subprocess.run(command, cwd=project.folder, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        assert "run.db cannot be" in done.stderr
    assert project.database.read_bytes() == bytes(content)
    project.refine("--fresh")
    (aside,) = (path for path in (project.folder / "runs").iterdir() if path.name != "asked")
    assert (aside / "run.db").read_bytes() == bytes(content)


def test_an_empty_store_where_a_run_was_is_not_started_over_silently(project: Project) -> None:
    project.refine("--limit", "2")
    project.database.write_bytes(b"")
    assert "is empty, though a run was held here" in fails(project)


# versions


def version_1_store(path: Path, project: Project) -> None:
    """The project's store as version 1 would have written it."""
    from meteor_agents.store.schema import _key_of_version_1

    with closing(open_for_reading(project.database)) as records, closing(sqlite3.connect(path)) as old:
        old.executescript(VERSION_1)
        columns = (
            "key, weights, role, stage, question_id, tries, request, reply, finish_reason, model, input_tokens,"
            " output_tokens, usd, seconds, created"
        )
        for _, weights, role, stage, question, tries, request, *rest in records.read(f"SELECT {columns} FROM calls"):
            key = _key_of_version_1(role, weights, json.loads(request), tries, 0)
            row = (key, weights, role, stage, question, tries, json.dumps(json.loads(request)), *rest)
            old.execute(f"INSERT INTO calls VALUES ({','.join('?' * 15)})", row)
        for table in ("rounds", "stages", "scores", "evaluations", "counters"):
            for row in records.read(f"SELECT * FROM {table}"):
                old.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", row)
        columns = "stage, recipe, question_id, outcome, tries, question, messages, error, position, created"
        for row in records.read(f"SELECT {columns} FROM traces"):
            old.execute(f"INSERT INTO traces VALUES ({','.join('?' * 10)})", row)
        old.commit()


VERSION_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE calls (
    key TEXT NOT NULL, weights TEXT NOT NULL, role TEXT NOT NULL, stage TEXT NOT NULL, question_id TEXT NOT NULL,
    tries INTEGER NOT NULL, request TEXT NOT NULL, reply TEXT NOT NULL, finish_reason TEXT NOT NULL, model TEXT NOT NULL,
    input_tokens INTEGER, output_tokens INTEGER, usd REAL, seconds REAL NOT NULL, created REAL NOT NULL,
    PRIMARY KEY (key, weights)) WITHOUT ROWID;
CREATE TABLE traces (
    stage TEXT NOT NULL, recipe TEXT NOT NULL, question_id TEXT NOT NULL, outcome TEXT NOT NULL, tries INTEGER NOT NULL,
    question TEXT NOT NULL, messages TEXT NOT NULL, error TEXT, position INTEGER NOT NULL, created REAL NOT NULL,
    PRIMARY KEY (stage, recipe, question_id)) WITHOUT ROWID;
CREATE INDEX traces_in_order ON traces (stage, recipe, position);
CREATE TABLE rounds (
    stage TEXT NOT NULL, recipe TEXT NOT NULL, round INTEGER NOT NULL, traces TEXT NOT NULL, data_hash TEXT NOT NULL,
    start TEXT NOT NULL, checkpoint TEXT NOT NULL, promoted INTEGER NOT NULL, reason TEXT NOT NULL, report TEXT NOT NULL,
    created REAL NOT NULL, PRIMARY KEY (stage, recipe, round)) WITHOUT ROWID;
CREATE TABLE stages (
    stage TEXT NOT NULL, recipe TEXT NOT NULL, state TEXT NOT NULL, questions INTEGER NOT NULL, checkpoint TEXT NOT NULL,
    seconds REAL NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (stage, recipe)) WITHOUT ROWID;
CREATE TABLE scores (
    checkpoint TEXT NOT NULL, heldout TEXT NOT NULL, recipe TEXT NOT NULL, question_id TEXT NOT NULL,
    result TEXT NOT NULL, PRIMARY KEY (checkpoint, heldout, recipe, question_id)) WITHOUT ROWID;
CREATE TABLE evaluations (
    checkpoint TEXT NOT NULL, heldout TEXT NOT NULL, recipe TEXT NOT NULL, label TEXT NOT NULL, metrics TEXT NOT NULL,
    position INTEGER NOT NULL, PRIMARY KEY (checkpoint, heldout, recipe)) WITHOUT ROWID;
CREATE TABLE counters (
    role TEXT NOT NULL, name TEXT NOT NULL, value INTEGER NOT NULL, PRIMARY KEY (role, name)) WITHOUT ROWID;
PRAGMA user_version = 1;
"""


def test_a_store_of_version_1_is_brought_up_to_date_and_its_replies_are_reused(
    tmp_path: Path, project: Project, server: ChatServer
) -> None:
    project.refine("--limit", "20")
    expected, spent = project.status(), Path("runs/old")
    folder = project.folder / spent
    folder.mkdir()
    version_1_store(folder / "run.db", project)
    with pytest.raises(StoreError, match=r"store version 1, this meteor reads version 3; the next stage command"):
        open_for_reading(folder / "run.db")
    before = len(server.log())
    project.refine("--limit", "20", "--run-dir", str(spent))
    assert len(server.log()) == before
    with closing(open_for_reading(folder / "run.db")) as records:
        by_role = records.spent_by_role()
        assert {role: used.calls for role, used in by_role.items()} == {
            role: row["made"] for role, row in expected["calls"].items()
        }
        assert len(list(records.current_traces())) == 20
        (stage,) = records.current_stages()
        assert sum(n for *_, n in records.trace_totals(stage.name, stage.recipe)) == 20


def test_a_store_of_a_newer_version_is_refused_in_words(project: Project) -> None:
    project.refine("--limit", "2")
    with closing(sqlite3.connect(project.database)) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert "has store version 99, this meteor reads version 3; use the meteor that wrote it" in fails(project)


def test_a_migration_that_is_killed_has_not_begun(tmp_path: Path, project: Project) -> None:
    project.refine("--limit", "20")
    old = tmp_path / "old.db"
    version_1_store(old, project)
    program = (
        "import os, signal, sys; from pathlib import Path; import meteor_agents.store.schema as schema\n"
        "real, told = schema._call_of_version_1, []\n"
        "def call(row):\n"
        "    told.append(row)\n"
        "    if len(told) == 15: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(row)\n"
        "schema._call_of_version_1 = call\n"
        "from meteor_agents.store.store import Store\n"
        "Store(Path(sys.argv[1]))"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(old)], check=False, capture_output=True, timeout=60)
    assert killed.returncode == -9
    with pytest.raises(StoreError, match="store version 1"):
        open_for_reading(old)
    store = Store(old)
    store.close()
    with closing(open_for_reading(old)) as records, closing(open_for_reading(project.database)) as expected:
        assert records.spent().calls == expected.spent().calls


def test_a_run_directory_that_cannot_be_locked_is_said(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.lock").mkdir()
    with pytest.raises(StoreError, match="cannot be used as a run directory: Is a directory"):
        RunDirectory(tmp_path / "run").__enter__()
