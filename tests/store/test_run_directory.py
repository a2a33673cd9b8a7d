"""Who may read a run's files, who holds its lock, and what happens while another program holds its store."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from meteor_agents.errors import StoreError
from meteor_agents.store import writer
from meteor_agents.store.records import open_for_reading
from meteor_agents.store.run_directory import RunDirectory
from meteor_agents.store.store import Store


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_what_a_run_makes_can_be_read_by_its_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "runs" / "a") as directory:
        store = Store(directory.database)
        asyncio.run(store.set_meta("a", 1))
        directory.write_config("name: a\n")
        found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.path.iterdir() if path.is_file()}
        store.close()
    assert stat.S_IMODE((tmp_path / "runs" / "a").stat().st_mode) == 0o700
    assert {"config.yaml", "run.db", "run.db-wal", "log.jsonl", "run.lock"} <= found.keys()
    assert set(found.values()) == {0o600}


def test_a_folder_that_is_there_keeps_the_access_that_its_owner_gave_it(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o770)
    with RunDirectory(tmp_path / "shared"):
        assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o770


def test_a_forked_child_does_not_hold_the_lock_of_a_process_that_was_killed(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys, time; from pathlib import Path\n"
        "from meteor_agents.store.run_directory import RunDirectory\n"
        "with RunDirectory(Path(sys.argv[1])):\n"
        "    child = os.fork()\n"
        "    if child == 0: time.sleep(60)\n"
        "    print(child, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "run")]
    with (tmp_path / "said").open("w") as out:
        killed = subprocess.run(command, stdout=out, check=False)
    child = int((tmp_path / "said").read_text())
    try:
        assert killed.returncode == -9
        os.kill(child, 0)  # it lives still
        with RunDirectory(tmp_path / "run") as directory:
            assert directory.checkpoints.is_dir()
    finally:
        os.kill(child, 9)


def test_a_lock_of_another_program_is_reported_and_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "LOCKED_NOTE_S", 0.1)
    store, told, released = Store(tmp_path / "run.db"), list[str](), threading.Event()

    def tell(sentence: str) -> None:
        told.append(sentence)
        released.set()

    store.tell(tell)

    def hold() -> None:
        with closing(sqlite3.connect(tmp_path / "run.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            held.set()
            released.wait(30)

    held = threading.Event()
    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(30)
    asyncio.run(store.set_meta("a", 1))
    holder.join()
    assert store.meta("a") == 1
    assert "has been locked by another program for" in told[0]
    store.close()


def test_a_lock_that_never_ends_ends_the_run_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "LOCKED_NOTE_S", 0.05)
    monkeypatch.setattr(writer, "LOCKED_S", 0.1)
    store = Store(tmp_path / "run.db")
    with closing(sqlite3.connect(tmp_path / "run.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="cannot be written: database is locked; what was committed"):
            asyncio.run(store.set_meta("a", 1))
    store.close()


@pytest.mark.parametrize(
    "content", ['{"base": {"version": "b', '{"base": null}', "[]", '"base"', '{"base": {}}', "[" * 100_000]
)
def test_a_lineage_that_is_cut_or_something_else_is_said(tmp_path: Path, content: str) -> None:
    Store(tmp_path / "run.db").close()
    with closing(sqlite3.connect(tmp_path / "run.db", isolation_level=None)) as connection:
        connection.execute("INSERT INTO meta VALUES ('lineage', ?)", (content,))
    with closing(open_for_reading(tmp_path / "run.db")) as records, pytest.raises(StoreError, match=r"lineage.*is broken"):
        records.lineage()


@pytest.mark.parametrize("column", ["question", "messages"])
def test_a_trace_that_is_cut_is_said(tmp_path: Path, column: str) -> None:
    path = tmp_path / "run.db"
    path.write_bytes((Path(__file__).parent / "version-2.db").read_bytes())
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"UPDATE traces SET {column} = substr({column}, 1, 20)")
    with closing(open_for_reading(path)) as records:
        with pytest.raises(StoreError, match=r"the trace of question 'q\d+' in refine is broken .*put a copy of it back"):
            list(records.current_traces())
        with pytest.raises(StoreError, match="is broken"):
            list(records.current_trace_rows(at_most=9))


def test_bytes_that_are_damaged_are_found_on_opening(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    content = bytearray((Path(__file__).parent / "version-2.db").read_bytes())
    content[8 * 1024 : 9 * 1024] = bytes(range(256)) * 4
    path.write_bytes(content)
    with pytest.raises(StoreError, match="the file is damaged: put a copy of it back"):
        open_for_reading(path, whole=True)
