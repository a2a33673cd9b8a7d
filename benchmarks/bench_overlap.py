"""What `refine.mode: overlap` buys: calls answered while updates train, on a fake server in a process of its own.

    python benchmarks/bench_overlap.py [--questions 2000] [--update-s 3]

Stage 2 as `meteor refine` holds it, on a real run directory. The trainer is a pause of `--update-s` in which a checkpoint
folder appears, as when training runs on other hardware. A share is the calls a second while an update trains, of those a
second while none does: 0 when conversations stop for it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

from meteor_agents.cli.assembly import Wanted, open_pipeline
from meteor_agents.engine import Drain
from meteor_agents.events import CallFinished, Event
from meteor_agents.pipeline import Pipeline
from meteor_agents.run_directory import RunDirectory
from meteor_agents.settings import load_settings
from meteor_agents.store import Store
from meteor_agents.tally import Tally
from meteor_agents.training import TrainingJob, TrainingReport

HERE = Path(__file__).resolve().parent


class Pause:
    """A trainer that takes its time and nothing else, and remembers when it did."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.spans: list[tuple[float, float]] = []

    async def train(self, job: TrainingJob, folder: Path, on_event: Callable[[Event], None]) -> TrainingReport:
        began = time.monotonic()
        await asyncio.sleep(self._seconds)
        await asyncio.to_thread(folder.mkdir)
        self.spans.append((began, time.monotonic()))
        return TrainingReport(
            loss=0.5, steps=1, tokens=1, seconds=self._seconds, rows_used=len(job.rows), rows_too_long=0
        )

    async def aclose(self) -> None:
        pass


class Named:
    """Weights that are but a name."""

    weights = "base"

    async def load_weights(self, folder: Path, version: str) -> None:
        self.weights = version


class Calls:
    """When calls were answered."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def on_event(self, event: Event) -> None:
        if isinstance(event, CallFinished) and not event.reused:
            self.at.append(time.monotonic())


async def refine(folder: Path, url: str, mode: str, given: argparse.Namespace) -> tuple[Calls, Pause, float]:
    questions = folder / "questions.jsonl"
    lines = [json.dumps({"id": f"q{i:05d}", "question": f"What is {i}?"}) + "\n" for i in range(given.questions)]
    await asyncio.to_thread(questions.write_text, "".join(lines))
    model = {"backend": "openai", "base_url": url, "limits": {"concurrency": given.in_flight}}
    settings = load_settings(
        {
            "name": "overlap",
            "domain": "numbers",
            "questions": {"path": str(questions)},
            "student": {**model, "model": "student"},
            "teacher": {"backend": "reference"},
            "judge": {**model, "model": "judge"},
            "refine": {"mode": mode, "update_every": given.update_every},
        },
        base=folder,
        source="bench",
    )
    calls, trainer = Calls(), Pause(given.update_s)
    with RunDirectory(folder / "run") as directory:
        store = Store(directory.database)
        try:
            async with AsyncExitStack() as closing:
                pipeline = await open_pipeline(
                    settings, folder, directory, store, calls, Drain(), Wanted(False, False), closing, Tally()
                )
                pipeline.trainer = trainer
                pipeline.cast = replace(pipeline.cast, student_server=Named())
                began = time.monotonic()
                await Pipeline.refine(pipeline)
                return calls, trainer, time.monotonic() - began
        finally:
            store.close()


def share(calls: Calls, trainer: Pause) -> float:
    """Calls a second during updates, of those a second outside, between the first and the last call."""
    first, last = calls.at[0], calls.at[-1]
    spans = [(max(first, begin), min(last, end)) for begin, end in trainer.spans if begin < last]
    during_s = sum(end - begin for begin, end in spans)
    during = sum(any(begin <= at <= end for begin, end in spans) for at in calls.at)
    return (during / during_s) / ((len(calls.at) - during) / (last - first - during_s))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--delay-s", type=float, default=0.2)
    parser.add_argument("--update-every", type=int, default=500)
    parser.add_argument("--update-s", type=float, default=3.0)
    given = parser.parse_args()
    command: list[Any] = [sys.executable, HERE / "fake_server.py", "--delay-s", str(given.delay_s)]
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True) as server:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        for mode in ("sync", "overlap"):
            with tempfile.TemporaryDirectory() as folder:
                calls, trainer, wall_s = asyncio.run(refine(Path(folder), url, mode, given))
            print(
                f"{mode:8} {wall_s:6.1f} s for {len(calls.at)} calls and {len(trainer.spans)} updates of "
                f"{given.update_s:g} s; throughput kept during updates: {share(calls, trainer):.0%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
