"""How long `meteor status` takes on a large run, beside a run of ten traces and beside counting the rows themselves.

    python benchmarks/bench_status.py --traces 100000

Makes a run directory with that many stage-2 traces and twice as many calls of 1.5 KB, then starts the command as a user
does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from meteor_agents.messages import Attempt, Question, Status, Verdict
from meteor_agents.models import Completion, FinishReason, Usage
from meteor_agents.store.call_records import NewCall
from meteor_agents.store.store import Store
from meteor_agents.traces import Outcome, Trace

WORDS = "what six times seven is, and why " * 15
RUNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=int, default=100_000)
    traces = parser.parse_args().traces
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small", Path(folder) / "large"
        for run, number in ((small, 10), (large, traces)):
            run.mkdir()
            started = time.perf_counter()
            asyncio.run(fill(run / "run.db", number))
            seconds = time.perf_counter() - started
            size = (run / "run.db").stat().st_size / 2**20
            print(f"{number:>7,} traces and {2 * number:,} calls written in {seconds:.1f} s, {size:,.0f} MiB")
        print("\nmedian of 5                                        wall s     CPU s")
        base = report("meteor status --json, 10 traces", lambda: status(small))
        found = report(f"meteor status --json, {traces:,} traces", lambda: status(large))
        report("  the same without starting a process", lambda: read_only(large))
        report("  opening the store for a run", lambda: Store(large / "run.db").close())
        report("  for comparison: counting calls and traces", lambda: count(large / "run.db"))
        print(f"\n{traces:,} traces take {found / base:.2f} times as long as ten")


async def fill(path: Path, traces: int) -> None:
    store = Store(path)
    reply = Completion(WORDS, FinishReason.COMPLETE, Usage(input_tokens=150, output_tokens=120), "m", "m")
    request = json.dumps({"messages": [{"role": "user", "content": WORDS}], "sampling": {}})
    attempt = Attempt(text=WORDS, reasoning=WORDS, answer="42", model="m", weights="m")
    for first in range(0, traces, 500):
        async with asyncio.TaskGroup() as group:
            for i in range(first, min(first + 500, traces)):
                question = Question(id=f"q{i}", question=f"{WORDS}{i}")
                correct = i % 3 > 0
                verdict = Verdict(status=Status.CORRECT if correct else Status.INCORRECT, explanation=WORDS, model="m")
                outcome = Outcome.ACCEPTED if correct else Outcome.EXHAUSTED
                trace = Trace(stage="refine", question=question, messages=(attempt, verdict), outcome=outcome)
                group.create_task(store.add_trace("recipe", trace))
                for role in ("student", "judge"):
                    call = NewCall(f"{role}{i:060d}", role, "refine", question.id, 1, request, 512, reply, 0.001, 0.2)
                    group.create_task(store.add_call(call))
    await store.set_stage("refine", "recipe", "done", traces, "m", 60.0)
    store.close()


def status(run: Path) -> None:
    command = [sys.executable, "-m", "meteor_agents.cli", "status", str(run), "--json"]
    shown = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert shown["stages"]["refine"]["accepted"] > 0


def read_only(run: Path) -> None:
    from meteor_agents.analysis.status import read_status
    from meteor_agents.store.records import open_for_reading

    with closing(open_for_reading(run / "run.db")) as records:
        read_status(records)


def count(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "SELECT role, count(*), sum(input_tokens), sum(output_tokens) FROM calls GROUP BY role"
        ).fetchall()
        connection.execute("SELECT outcome, tries, count(*) FROM traces GROUP BY outcome, tries").fetchall()


def report(what: str, work: Callable[[], None]) -> float:
    """The median's seconds."""
    times = []
    for _ in range(RUNS):
        before, started = cpu_s(), time.perf_counter()
        work()
        times.append((time.perf_counter() - started, cpu_s() - before))
    wall, cpu = sorted(times)[RUNS // 2]
    print(f"{what:<48} {wall:>8.3f}  {cpu:>8.3f}")
    return wall


def cpu_s() -> float:
    """CPU seconds of this process and of the processes that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    main()
