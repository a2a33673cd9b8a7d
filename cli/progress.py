"""What a person sees while a run goes on: a live view on a terminal, plain lines elsewhere; the same as JSON lines."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from meteor_agents.events import (
    CallFailed,
    CallFinished,
    CallRetried,
    Draining,
    EvaluationFinished,
    Event,
    Note,
    Observer,
    QuestionFinished,
    StageFinished,
    StageStarted,
    TrainingNote,
    TrainingProgress,
    UpdateFinished,
)

PLAIN_EVERY_S = 10.0
"""Seconds between two plain lines about the same thing."""


@contextmanager
def open_progress() -> Iterator[Observer]:
    """A live view when standard output is a terminal, else plain lines."""
    console = Console()
    if console.is_terminal:
        with LiveView(console) as view:
            yield view
    else:
        yield PlainLines(sys.stdout)


def sentence(event: Event) -> str | None:
    """What happened, for a line of its own; None for what only moves a bar."""
    match event:
        case StageFinished(stage, seconds, summary):
            return f"{stage}: done in {duration(seconds)}: {summary}"
        case UpdateFinished(name, examples, loss, seconds, promoted, reason):
            trained = f"{examples} examples, " + (f"loss {loss:.3f}, " if loss is not None else "") + duration(seconds)
            return f"{name}: {'promoted' if promoted else 'NOT promoted'} ({trained}; gate: {reason})"
        case EvaluationFinished(checkpoint, heldout, summary):
            return f"{checkpoint} on {heldout}: {summary}"
        case TrainingNote(name, text):
            return f"{name}: {text}"
        case CallRetried(role, reason, wait_s):
            return f"{role}: trying again in {wait_s:.1f} s: {reason}"
        case CallFailed(role, reason):
            return f"{role}: a call failed: {reason}"
        case Note(text) | Draining(text):
            return text
    return None


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class Counts:
    """What both views show of the stage that is going on."""

    def __init__(self) -> None:
        self.stage = ""
        self.questions = self.done = 0
        self.outcomes: Counter[str] = Counter()
        self.tries: Counter[int] = Counter()
        self.output_tokens = self.reused = self.calls = 0
        self.started = time.monotonic()

    def start(self, event: StageStarted) -> None:
        self.__init__()  # type: ignore[misc]  # a new stage starts from nothing
        self.stage, self.questions, self.done = event.stage, event.questions, event.done

    def add(self, event: Event) -> None:
        match event:
            case QuestionFinished(_, _, outcome, tries):
                self.done += 1
                self.outcomes[outcome] += 1
                if outcome == "accepted":
                    self.tries[tries] += 1
            case CallFinished(_, reused, _, _, output_tokens):
                self.calls += not reused
                self.reused += reused
                self.output_tokens += output_tokens

    def summary(self) -> str:
        parts = [f"{n} {outcome}" for outcome, n in self.outcomes.items()]
        if self.tries and self.stage == "refine":
            parts.append("accepted at try " + ", ".join(f"{t}: {n}" for t, n in sorted(self.tries.items())))
        elapsed = time.monotonic() - self.started
        if self.output_tokens and elapsed > 1:
            parts.append(f"{self.output_tokens / elapsed:,.0f} tokens/s")
        if self.reused:
            parts.append(f"{self.reused} replies reused")
        return "; ".join(parts)


class PlainLines:
    """One line a fact; progress at most every `PLAIN_EVERY_S`."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._counts = Counts()
        self._shown_at = clock()

    def on_event(self, event: Event) -> None:
        if isinstance(event, StageStarted):
            self._counts.start(event)
            reused = f" ({event.done} done before)" if event.done else ""
            self._say(f"{event.stage}: {event.questions} questions{reused}")
            return
        self._counts.add(event)
        text = sentence(event)
        if text is not None:
            self._say(text)
        elif self._clock() - self._shown_at >= PLAIN_EVERY_S:
            if isinstance(event, TrainingProgress):
                self._say(training_line(event))
            elif isinstance(event, QuestionFinished | CallFinished):
                counts = self._counts
                self._say(f"{counts.stage}: {counts.done} of {counts.questions}; {counts.summary()}")

    def _say(self, text: str) -> None:
        self._shown_at = self._clock()
        print(text, file=self._out, flush=True)


def training_line(event: TrainingProgress) -> str:
    return (
        f"{event.name}: step {event.step} of {event.steps}, loss {event.loss:.3f}, "
        f"lr {event.learning_rate:.1e}, {event.tokens_per_s:,.0f} tokens/s"
    )


class LiveView:
    """Finished facts scroll by above; below, one bar for the stage and one for the training that is going on."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._counts = Counts()
        self._progress = Progress(
            TextColumn("[bold]{task.description}", markup=True),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._detail = Text("")
        self._live = Live(Group(self._progress, self._detail), console=console, refresh_per_second=8)
        self._stage: TaskID | None = None
        self._training: TaskID | None = None

    def __enter__(self) -> LiveView:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def on_event(self, event: Event) -> None:
        match event:
            case StageStarted(stage, questions, done):
                self._counts.start(event)
                self._drop_bars()
                self._stage = self._progress.add_task(stage, total=questions, completed=done)
            case TrainingProgress(name, step, steps):
                if self._training is None:
                    self._training = self._progress.add_task(name, total=steps)
                self._progress.update(self._training, description=name, completed=step, total=steps)
                self._detail.plain = training_line(event)
            case UpdateFinished():
                if self._training is not None:
                    self._progress.remove_task(self._training)
                    self._training = None
            case StageFinished():
                self._drop_bars()
        self._counts.add(event)
        if isinstance(event, QuestionFinished | CallFinished):
            if self._stage is not None:
                self._progress.update(self._stage, completed=self._counts.done)
            self._detail.plain = self._counts.summary()
        text = sentence(event)
        if text is not None:
            self._console.print(text, markup=False, highlight=False)

    def _drop_bars(self) -> None:
        for task in (self._stage, self._training):
            if task is not None:
                self._progress.remove_task(task)
        self._stage = self._training = None
        self._detail.plain = ""


class JsonLog:
    """Every event as one JSON object a line: time, event, and the event's own fields."""

    def __init__(self, path: Path) -> None:
        self._out = path.open("a", encoding="utf-8")

    def __enter__(self) -> JsonLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._out.close()

    def on_event(self, event: Event) -> None:
        line = {"time": round(time.time(), 3), "event": type(event).__name__, **dataclasses.asdict(event)}
        self._out.write(json.dumps(line, ensure_ascii=False) + "\n")
        if not isinstance(event, CallFinished):
            self._out.flush()
