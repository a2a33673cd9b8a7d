from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from meteor_agents.errors import StoreError
from meteor_agents.messages import Attempt, Question, Status, Verdict
from meteor_agents.models import Completion, FinishReason, Usage
from meteor_agents.store.call_records import NewCall
from meteor_agents.store.records import open_for_reading
from meteor_agents.store.run_directory import RunDirectory
from meteor_agents.store.stage_records import Round
from meteor_agents.store.store import Store
from meteor_agents.traces import Outcome, Trace

REPLY = Completion("hello", FinishReason.COMPLETE, Usage(input_tokens=3, output_tokens=2), "m", "w1")
QUESTION = Question(id="q", question="What?", metadata={"tags": ["a", 1]})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "run.db")
    yield store
    store.close()


def trace(outcome: Outcome = Outcome.ACCEPTED, question: Question = QUESTION) -> Trace:
    attempt = Attempt(text="Answer: 1", reasoning="", answer="1", model="m", weights="w1")
    verdict = Verdict(status=Status.CORRECT, model="verifier:exact")
    return Trace(stage="refine", question=question, messages=(attempt, verdict), outcome=outcome)


def add_call(store: Store, key: str = "k", reply: Completion = REPLY, usd: float | None = None) -> None:
    asyncio.run(store.add_call(NewCall(key, "student", "refine", "q", 1, "{}", 9, reply, usd, 0.1)))


def test_a_reply_is_found_by_its_key_and_weights(store: Store) -> None:
    add_call(store)
    assert store.find_call("k", ["w1"], 9) == REPLY
    assert store.find_call("k", ["w2"], 9) is None
    assert store.find_call("k", ["w2", "w1"], 9) == REPLY
    assert store.find_call("other", ["w1"], 9) is None


def test_what_a_model_thought_first_is_kept_beside_its_reply(store: Store) -> None:
    add_call(store, "plain")
    add_call(store, "thought", replace(REPLY, reasoning="hmm"))
    assert store.read("SELECT key, text FROM reasoning") == [("thought", "hmm")]
    assert store.find_call("thought", ["w1"], 9) == REPLY


def test_an_awaited_write_is_on_disk(store: Store, tmp_path: Path) -> None:
    add_call(store)
    other = sqlite3.connect(tmp_path / "run.db")
    assert other.execute("SELECT reply FROM calls").fetchall() == [("hello",)]
    other.close()


def test_concurrent_writes_are_all_kept(store: Store) -> None:
    async def many() -> None:
        await asyncio.gather(
            *(store.add_call(NewCall(str(i), "student", "s", "q", 1, "{}", 9, REPLY, None, 0.0)) for i in range(500))
        )

    asyncio.run(many())
    assert store.read("SELECT count(*) FROM calls") == [(500,)]
    assert store.spent().tokens == 2500


def test_unknown_usage_and_price_count_nothing_but_are_kept_as_unknown(store: Store) -> None:
    add_call(store, reply=Completion("x", FinishReason.COMPLETE, Usage(), "m", "w1"))
    assert (store.spent().tokens, store.spent().usd) == (0, 0)
    assert store.read("SELECT input_tokens, usd FROM calls") == [(None, None)]


def test_a_trace_reads_back_equal_and_a_failed_one_is_replaced(store: Store) -> None:
    asyncio.run(store.add_trace("r", trace(Outcome.FAILED)))
    asyncio.run(store.add_trace("r", trace()))
    assert store.traces("refine", "r") == [trace()]
    assert list(store.outcomes("refine", "r")) == [("q", Outcome.ACCEPTED)]
    assert store.trace_totals("refine", "r") == [("accepted", 1, 1)]
    assert store.traces("refine", "another recipe") == []


def test_outcomes_keep_the_order_in_which_traces_were_finished(store: Store) -> None:
    ids = ["z", "a", "m"]
    for id_ in ids:
        asyncio.run(store.add_trace("r", trace(question=Question(id=id_, question=id_))))
    assert [id_ for id_, _ in store.outcomes("refine", "r")] == ids


def test_a_round_reads_back_equal(store: Store) -> None:
    round_ = Round("refine", 1, ("a", "b"), "hash", "base", "refine-001", True, "better", {"loss": 0.5})
    asyncio.run(store.add_round("r", round_))
    assert store.rounds("refine", "r") == [round_]


def test_stage_seconds_add_up_over_sessions(store: Store) -> None:
    for state, seconds in (("stopped", 1.5), ("done", 2.0)):
        asyncio.run(store.set_stage("refine", "r", state, 3, "w", seconds))
    assert store.read("SELECT state, seconds FROM stages") == [("done", 3.5)]
    assert store.finished_stage("refine", "r") == "w"


def test_a_store_of_another_version_is_refused_in_words(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "run.db")
    connection.execute("PRAGMA user_version = 99")
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(StoreError, match="store version 99"):
        Store(tmp_path / "run.db")
    with pytest.raises(StoreError, match="store version 99"):
        open_for_reading(tmp_path / "run.db")


def test_a_file_that_is_no_store_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "run.db").write_bytes(b"not a database at all, but long enough to be looked at" * 20)
    with pytest.raises(StoreError, match="cannot be used"):
        Store(tmp_path / "run.db")


def test_a_failing_write_is_said_and_ends_the_store(store: Store) -> None:
    async def write() -> None:
        await store.add_score("c", "h", "r", "q", None)  # type: ignore[arg-type]  # NULL, which the table refuses

    with pytest.raises(StoreError, match="cannot be written"):
        asyncio.run(write())


def test_any_failure_of_a_write_fails_who_waits_and_who_comes_later(store: Store) -> None:
    async def write() -> list[BaseException | Completion | None]:
        first = await asyncio.gather(
            store.set_meta("a", 1),
            store.add_score("c", "h", "r", "q", None),  # type: ignore[arg-type]  # NULL, which the table refuses
            store.set_meta("b", 1), return_exceptions=True,
        )  # fmt: skip
        later = await asyncio.gather(store.set_meta("c", 1), return_exceptions=True)
        return [*first, *later]

    outcomes = asyncio.run(asyncio.wait_for(write(), timeout=10))
    assert isinstance(outcomes[1], StoreError)
    assert isinstance(outcomes[-1], StoreError)
    assert "cannot be written" in str(outcomes[-1])


def test_a_write_after_the_end_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "run.db")
    store.close()
    with pytest.raises(StoreError, match="is closed"):
        add_call(store)


def test_what_is_counted_without_waiting_is_there_when_the_store_is_closed(tmp_path: Path) -> None:
    store = Store(tmp_path / "run.db")
    for _ in range(3):
        store.count_soon("judge", "retried")
    store.close()
    with closing(open_for_reading(tmp_path / "run.db")) as records:
        assert records.counters() == [("judge", "retried", 3)]


def test_what_was_awaited_survives_kill_9(tmp_path: Path) -> None:
    program = """
        import asyncio, os, signal, sys
        from pathlib import Path
        from meteor_agents.models import Completion, FinishReason, Usage
        from meteor_agents.store.call_records import NewCall
        from meteor_agents.store.store import Store

        async def main():
            store = Store(Path(sys.argv[1]))
            for i in range(1000):
                reply = Completion(str(i), FinishReason.COMPLETE, Usage(), "m", "w")
                await store.add_call(NewCall(str(i), "student", "s", "q", 1, "{}", 9, reply, None, 0.0))
                if i == 50:
                    os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(main())
    """
    path = tmp_path / "run.db"
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    store = Store(path)
    assert store.read("SELECT count(*) FROM calls") == [(51,)]
    store.close()


def test_a_second_process_is_kept_out_and_a_dead_one_leaves_no_lock(tmp_path: Path) -> None:
    program = "import sys, time; from pathlib import Path; from meteor_agents.store.run_directory import RunDirectory\n"
    program += "with RunDirectory(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "run")], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StoreError, match=f"in use by another meteor \\(process {holder.pid}\\)"):
            RunDirectory(tmp_path / "run").__enter__()
    finally:
        holder.kill()
        holder.wait()
        assert holder.stdout is not None
        holder.stdout.close()
    with RunDirectory(tmp_path / "run") as directory:
        assert directory.checkpoints.is_dir()


def test_fresh_moves_the_earlier_run_aside(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    assert directory.set_aside() is None
    with directory:
        directory.config.write_text("old")
    aside = directory.set_aside()
    assert aside is not None
    assert (aside / "config.yaml").read_text() == "old"
    assert not directory.path.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere, so a read-only folder cannot be made")
def test_a_read_only_folder_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="cannot be used as a run directory"):
        RunDirectory(tmp_path / "run").__enter__()
