"""What `refine.mode: overlap` gains: calls answered while updates train, on a fake server in a process of its own.

    python benchmarks/bench_overlap.py [--questions 2000] [--update-s 3]
    python benchmarks/bench_overlap.py --run runs/quickstart

Runs stage 2 as `meteor refine` does, on a real run directory. The trainer is a pause of `--update-s` seconds after which a
checkpoint folder appears, as if training ran on other hardware. With `--run`, stage 2 of that run is repeated on a copy with
its student in process and its trainer, both on this machine. It must be a quickstart that has been through stage 1.

Prints the throughput kept during updates: calls a second while an update trains, divided by calls a second while none
does. It is 0 when conversations stop for updates.
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
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

from meteor_agents.assembly.config_file import read_config
from meteor_agents.assembly.opening import Opening, Parts, Plan
from meteor_agents.backends.registry import open_trainer
from meteor_agents.events import CallFinished, Event
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
    """A trainer that waits a number of seconds and makes an empty folder."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def train(self, job: TrainingJob, folder: Path, on_event: Callable[[Event], None]) -> TrainingReport:
        """See `meteor_agents.training.Trainer`."""
        await asyncio.sleep(self._seconds)
        await asyncio.to_thread(folder.mkdir)
        return TrainingReport(
            loss=0.5, steps=1, tokens=1, seconds=self._seconds, rows_used=len(job.rows), rows_too_long=0
        )

    async def aclose(self) -> None:
        """Nothing is left running."""


class Named:
    """A model that takes new weights by name only."""

    weights = "base"

    async def load_weights(self, folder: Path, version: str) -> None:
        """Take the name."""
        self.weights = version


class Calls:
    """Remembers when calls were answered, in seconds."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def on_event(self, event: Event) -> None:
        """Remember the time of a call that reached the model."""
        if isinstance(event, CallFinished) and not event.reused:
            self.at.append(time.monotonic())


class Timed:
    """A trainer that remembers when it trained."""

    def __init__(self, inner: Trainer) -> None:
        self._inner = inner
        self.spans: list[tuple[float, float]] = []

    async def train(self, job: TrainingJob, folder: Path, on_event: Callable[[Event], None]) -> TrainingReport:
        """Train, and remember when."""
        began = time.monotonic()
        try:
            return await self._inner.train(job, folder, on_event)
        finally:
            self.spans.append((began, time.monotonic()))

    async def aclose(self) -> None:
        """Close the inner trainer."""
        await self._inner.aclose()


def fake_settings(folder: Path, url: str, mode: str, given: argparse.Namespace) -> Settings:
    """Settings of a run whose student and judge are the fake server at `url`."""
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


async def refine(folder: Path, settings: Settings, pause_s: float | None) -> tuple[Calls, Spans, float]:
    """Hold stage 2 in that run directory: the calls, when updates trained, and the seconds in all.

    `pause_s` takes the trainer's place; None: the run's own trainer.
    """
    calls = Calls()
    with RunDirectory(folder) as directory:
        store = Store(directory.database)
        try:
            async with AsyncExitStack() as closing:
                trainer = Timed(open_trainer(settings) if pause_s is None else Pause(pause_s))
                closing.push_async_callback(trainer.aclose)
                opening = Opening(settings, directory, store, calls, parts=Parts(trainer=trainer))
                session = await opening.session(Plan(self_trains=False, evaluates=False), closing)
                if pause_s is not None:
                    session.student.model = Named()
                began = time.monotonic()
                await Pipeline(session).refine()
                return calls, trainer.spans, time.monotonic() - began
        finally:
            store.close()


def share(calls: Calls, trained: Spans) -> float:
    """Calls a second during updates, of those a second outside, between the first and the last call."""
    first, last = calls.at[0], calls.at[-1]
    spans = [(max(first, begin), min(last, end)) for begin, end in trained if begin < last]
    during_s = sum(end - begin for begin, end in spans)
    if not spans:
        raise SystemExit("no update trained before the last call; take more --questions or a lower --update-every")
    during = sum(any(begin <= at <= end for begin, end in spans) for at in calls.at)
    return (during / during_s) / ((len(calls.at) - during) / (last - first - during_s))


def on_a_fake_server(given: argparse.Namespace) -> None:
    """Start the fake server, and run stage 2 on it in each mode."""
    command: list[Any] = [sys.executable, HERE / "fake_server.py", "--delay-s", str(given.delay_s)]
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True) as server:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        for mode in MODES:
            with tempfile.TemporaryDirectory() as folder:
                settings = fake_settings(Path(folder), url, mode, given)
                told(mode, *asyncio.run(refine(Path(folder) / "run", settings, given.update_s)))


def on_a_real_run(run: Path) -> None:
    """Repeat stage 2 on copies of a run directory in each mode."""
    for mode in MODES:
        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copytree(run, Path(folder) / "run", ignore=shutil.ignore_patterns("run.lock", "*.log"))
            # Questions that stage 2 has not had: no stored reply serves.
            settings = read_config(str(run / "config.yaml"), (f"refine.mode={mode}", "refine.skip=708"))
            told(mode, *asyncio.run(refine(copy, settings, None)))


def told(mode: str, calls: Calls, spans: Spans, wall_s: float) -> None:
    """Print the line of one mode."""
    trained_s = sum(end - begin for begin, end in spans)
    print(
        f"{mode:8} {wall_s:6.1f} s for {len(calls.at)} calls and {len(spans)} updates of {trained_s:.0f} s in all; "
        f"throughput kept during updates: {share(calls, spans):.0%}",
        flush=True,
    )


def main() -> None:
    """Measure what the command line asks for."""
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
