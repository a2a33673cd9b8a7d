"""What `refine.mode: overlap` buys: calls answered while updates train, on a fake server in a process of its own.

    python benchmarks/bench_overlap.py [--questions 2000] [--update-s 3]
    python benchmarks/bench_overlap.py --run runs/quickstart

Stage 2 as `meteor refine` holds it, on a real run directory. The trainer is a pause of `--update-s` in which a checkpoint
folder appears, as when training runs on other hardware. With `--run`, a run of the quickstart that has been through stage 1,
it is that run's stage 2, held anew on a copy: its student in process, its trainer, both on this machine.

A share is the calls a second while an update trains, of those a second while none does: 0 when conversations stop for it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

from meteor_agents.assembly.config_file import find_config, read_config
from meteor_agents.assembly.opening import Wanted, open_pipeline
from meteor_agents.calls.tally import Tally
from meteor_agents.events import CallFinished, Event
from meteor_agents.pipeline.engine import Drain
from meteor_agents.pipeline.pipeline import Pipeline
from meteor_agents.settings.loading import load_settings
from meteor_agents.settings.run import Settings
from meteor_agents.store.run_directory import RunDirectory
from meteor_agents.store.store import Store
from meteor_agents.training import Trainer, TrainingJob, TrainingReport

HERE = Path(__file__).resolve().parent
MODES = ("sync", "overlap")

Spans = Sequence[tuple[float, float]]
"""When an update began and ended, in seconds."""


class Pause:
    """A trainer that takes its time and nothing else."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def train(self, job: TrainingJob, folder: Path, on_event: Callable[[Event], None]) -> TrainingReport:
        await asyncio.sleep(self._seconds)
        await asyncio.to_thread(folder.mkdir)
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


class Timed:
    """A trainer whose times are remembered."""

    def __init__(self, inner: Trainer) -> None:
        self._inner = inner
        self.spans: list[tuple[float, float]] = []

    async def train(self, job: TrainingJob, folder: Path, on_event: Callable[[Event], None]) -> TrainingReport:
        began = time.monotonic()
        try:
            return await self._inner.train(job, folder, on_event)
        finally:
            self.spans.append((began, time.monotonic()))

    async def aclose(self) -> None:
        await self._inner.aclose()


def fake_settings(folder: Path, url: str, mode: str, given: argparse.Namespace) -> Settings:
    questions = folder / "questions.jsonl"
    lines = [json.dumps({"id": f"q{i:05d}", "question": f"What is {i}?"}) + "\n" for i in range(given.questions)]
    questions.write_text("".join(lines))
    model = {"backend": "openai", "base_url": url, "limits": {"concurrency": given.in_flight}}
    content = {
        "name": "overlap",
        "domain": "numbers",
        "questions": {"path": str(questions)},
        "student": {**model, "model": "student"},
        "teacher": {"backend": "reference"},
        "judge": {**model, "model": "judge"},
        "refine": {"mode": mode, "update_every": given.update_every},
    }
    return load_settings(content, base=folder, source="bench")


async def refine(folder: Path, settings: Settings, base: Path, pause_s: float | None) -> tuple[Calls, Spans, float]:
    """`pause_s` stands for the trainer; None: the run's own."""
    calls = Calls()
    with RunDirectory(folder) as directory:
        store = Store(directory.database)
        try:
            async with AsyncExitStack() as closing:
                wanted = Wanted(train=pause_s is None, beams=False, evaluate=False)
                pipeline = await open_pipeline(
                    settings, base, directory, store, calls, Drain(), wanted, closing, Tally()
                )
                if pause_s is not None:
                    pipeline.trainer = Pause(pause_s)
                    pipeline.cast = replace(pipeline.cast, student_server=Named())
                assert pipeline.trainer is not None
                pipeline.trainer = trainer = Timed(pipeline.trainer)
                began = time.monotonic()
                await Pipeline.refine(pipeline)
                return calls, trainer.spans, time.monotonic() - began
        finally:
            store.close()


def share(calls: Calls, trained: Spans) -> float:
    """Calls a second during updates, of those a second outside, between the first and the last call."""
    first, last = calls.at[0], calls.at[-1]
    spans = [(max(first, begin), min(last, end)) for begin, end in trained if begin < last]
    during_s = sum(end - begin for begin, end in spans)
    during = sum(any(begin <= at <= end for begin, end in spans) for at in calls.at)
    return (during / during_s) / ((len(calls.at) - during) / (last - first - during_s))


def on_a_fake_server(given: argparse.Namespace) -> None:
    command: list[Any] = [sys.executable, HERE / "fake_server.py", "--delay-s", str(given.delay_s)]
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True) as server:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        for mode in MODES:
            with tempfile.TemporaryDirectory() as folder:
                settings = fake_settings(Path(folder), url, mode, given)
                told(mode, *asyncio.run(refine(Path(folder) / "run", settings, Path(folder), given.update_s)))


def on_a_real_run(run: Path) -> None:
    for mode in MODES:
        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copytree(run, Path(folder) / "run", ignore=shutil.ignore_patterns("run.lock", "*.log"))
            # Questions that stage 2 has not had: no stored reply serves.
            settings = read_config(str(run / "config.yaml"), (f"refine.mode={mode}", "refine.skip=708"))
            told(mode, *asyncio.run(refine(copy, settings, find_config("quickstart").parent, None)))


def told(mode: str, calls: Calls, spans: Spans, wall_s: float) -> None:
    trained_s = sum(end - begin for begin, end in spans)
    print(
        f"{mode:8} {wall_s:6.1f} s for {len(calls.at)} calls and {len(spans)} updates of {trained_s:.0f} s in all; "
        f"throughput kept during updates: {share(calls, spans):.0%}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a directory of the quickstart that has been through stage 1")
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--delay-s", type=float, default=0.2)
    parser.add_argument("--update-every", type=int, default=500)
    parser.add_argument("--update-s", type=float, default=3.0)
    given = parser.parse_args()
    if given.run:
        on_a_real_run(given.run)
    else:
        on_a_fake_server(given)


if __name__ == "__main__":
    main()
