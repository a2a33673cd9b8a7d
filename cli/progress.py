"""What a person sees while a run goes on: a live view on a terminal, plain lines elsewhere; the same as JSON lines."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from meteor_agents.calls.server import AS_SET
from meteor_agents.errors import StoreError
from meteor_agents.events import (
    CallFailed,
    CallFinished,
    CallRetried,
    CallStarted,
    Draining,
    EvaluationFinished,
    Event,
    Note,
    Observer,
    OverlapFound,
    Progressed,
    QuestionFinished,
    QuestionLate,
    RoleProgress,
    StageFinished,
    StageStarted,
    TrainingNote,
    TrainingProgress,
    UpdateFinished,
)

PLAIN_EVERY_S = 10.0
"""Seconds between two plain lines about the same thing."""
STILL_EVERY_S = 60.0
"""The same while nothing has ended since: models that take their time."""
DRAW_EVERY_S = 0.5
"""Seconds between two drawings of a training's progress."""
LOG_EVERY_S = 10.0
"""Seconds between two lines of the log about calls."""
TROUBLE_EVERY_S = 10.0
"""Seconds between two lines about the same kind of trouble with one role."""


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
        case OverlapFound():
            return f"warning: {event.summary}"
        case EvaluationFinished(checkpoint, heldout, summary):
            return f"{checkpoint} on {heldout}: {summary}"
        case TrainingNote(name, text):
            return f"{name}: {text}"
        case Note(text):
            return text
        case Draining():
            return event.text
    return None


class Troubles:
    """Sentences about what may happen thousands of times: one of a kind every `TROUBLE_EVERY_S`, with their number."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._told_at: dict[str, float] = {}
        self._untold: Counter[str] = Counter()

    def sentence(self, event: Event) -> str | None:
        match event:
            case CallRetried(role, reason, wait_s):
                return self._seldom(f"{role}: trying again in {wait_s:.1f} s", reason, kind=f"{role} retried")
            case CallFailed(role, reason):
                return self._seldom(f"{role}: a call failed", reason, kind=f"{role} failed")
            case QuestionLate(stage, question_id, reason):
                return self._seldom(f"{stage}: {question_id} goes to the end of the line", reason, kind=f"{stage} late")
        return None

    def _seldom(self, what: str, reason: str, *, kind: str) -> str | None:
        now = self._clock()
        if now - self._told_at.get(kind, -TROUBLE_EVERY_S) < TROUBLE_EVERY_S:
            self._untold[kind] += 1
            return None
        self._told_at[kind] = now
        more = self._untold.pop(kind, 0)
        return f"{what}: {reason}" + (f" (and {more:,} more like it since the last line)" if more else "")


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def stage_line(now: Progressed) -> str:
    """Where the stage stands, in one line."""
    parts = [f"{n:,} {outcome}" for outcome, n in now.outcomes.items()]
    if len(now.accepted_at_try) > 1:
        parts.append("accepted at try " + ", ".join(f"{t}: {n:,}" for t, n in now.accepted_at_try.items()))
    if now.late:
        parts.append(f"{now.late:,} put back in line, late")
    if now.seconds_left is not None and now.done < now.questions:
        parts.append(f"{duration(now.seconds_left)} left")
    return "; ".join(parts)


def role_cells(role: RoleProgress) -> dict[str, str]:
    """What is shown of a role: heading -> cell."""
    return {
        "role": role.role,
        "done": f"{role.made:,}",
        "in flight": f"{role.in_flight - role.waiting:,}" + (f" (+{role.waiting:,} wait)" if role.waiting else ""),
        "reused": f"{role.reused:,}",
        "retried": f"{role.retried:,}",
        "failed": f"{role.failed:,}",
        "tokens in/out": f"{role.input_tokens:,}/{role.output_tokens:,}",
        "USD": "no price" if role.usd is None else f"{role.usd:.4f}",
        "rate": f"{role.calls_per_s:.1f}/s" if role.calls_per_s >= 1 else f"{role.calls_last_minute}/min",
        "at once": "" if role.concurrency is None else f"{role.concurrency} ({role.concurrency_why})",
        "slowest": f"{role.slowest_question} {duration(role.slowest_s)}" if role.slowest_question else "",
    }


def role_line(role: RoleProgress) -> str:
    """A role in one clause: what is under way and for how long, what was done lately and in all."""
    parts = []
    if role.in_flight:
        oldest = f", the oldest {role.slowest_question} for {duration(role.slowest_s)}" if role.slowest_question else ""
        waiting = f" (+{role.waiting:,} in line)" if role.waiting else ""
        parts.append(f"{role.in_flight - role.waiting:,} in flight{waiting}{oldest}")
    parts.append(f"{role.made:,} done, {role.calls_last_minute:,} of them in the last minute")
    counts = {"reused": role.reused, "retried": role.retried, "failed": role.failed}
    parts += [f"{count:,} {what}" for what, count in counts.items() if count]
    if role.made:
        parts.append(f"tokens {role.input_tokens:,}/{role.output_tokens:,}")
    if role.made and role.usd != 0:
        parts.append("no price" if role.usd is None else f"{role.usd:.4f} US dollars")
    if role.concurrency is not None and role.concurrency_why != AS_SET:
        parts.append(f"{role.concurrency:,} at once ({role.concurrency_why})")
    return f"{role.role}: {', '.join(parts)}"


class PlainLines:
    """One line a fact; where the stage stands at most every `PLAIN_EVERY_S`, and less often while nothing ends."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._troubles = Troubles(clock)
        self._shown_at = clock()
        self._ended: tuple[str, int] = ("", 0)

    def on_event(self, event: Event) -> None:
        if isinstance(event, StageStarted):
            reused = f" ({event.done:,} done before)" if event.done else ""
            self._say(f"{event.stage}: {event.questions:,} questions{reused}")
        elif (text := sentence(event) or self._troubles.sentence(event)) is not None:
            self._say(text)
        elif isinstance(event, TrainingProgress):
            if self._due(PLAIN_EVERY_S):
                self._say(training_line(event))
        elif isinstance(event, Progressed):
            ended = (event.stage, sum(role.made + role.reused + role.failed + role.retried for role in event.roles))
            working = [role for role in event.roles if role.in_flight]
            if self._due(PLAIN_EVERY_S) if ended != self._ended else working and self._due(STILL_EVERY_S):
                self._ended = ended
                clauses = [stage_line(event), *(role_line(role) for role in event.roles)]
                said = "; ".join(clause for clause in clauses if clause)
                self._say(f"{event.stage}: {event.done:,} of {event.questions:,}; {said}")

    def _due(self, every_s: float) -> bool:
        return self._clock() - self._shown_at >= every_s

    def _say(self, text: str) -> None:
        self._shown_at = self._clock()
        print(text, file=self._out, flush=True)


def training_line(event: TrainingProgress) -> str:
    left = "" if event.seconds_left is None else f", {duration(event.seconds_left)} left"
    return (
        f"{event.name}: step {event.step} of {event.steps}, loss {event.loss:.3f}, "
        f"lr {event.learning_rate:.1e}, {event.tokens_per_s:,.0f} tokens/s{left}"
    )


class LiveView:
    """Finished facts scroll by above; below, bars for the stage and the training that is going on, and a row a role.

    Drawn once a second, and not for each event.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._troubles = Troubles(clock)
        self._progress = Progress(
            TextColumn("[bold]{task.description}", markup=True),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._talk: tuple[RenderableType, ...] = ()
        self._update: tuple[RenderableType, ...] = ()
        self._live = Live(self._progress, console=console, auto_refresh=False)
        self._drawn_at = clock()
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
            case CallStarted() | CallFinished() | QuestionFinished():
                return
            case StageStarted(stage, questions, done):
                self._drop_bars()
                self._stage = self._progress.add_task(stage, total=questions, completed=done)
            case TrainingProgress(name, step, steps):
                if self._training is None:
                    self._training = self._progress.add_task(name, total=steps)
                self._progress.update(self._training, description=name, completed=step, total=steps)
                self._update = (Text(training_line(event)),)
                if self._clock() - self._drawn_at >= DRAW_EVERY_S:
                    self._draw()
            case UpdateFinished():
                if self._training is not None:
                    self._progress.remove_task(self._training)
                    self._training = None
                self._update = ()
            case StageFinished():
                self._drop_bars()
            case Progressed():
                if self._stage is not None:
                    self._progress.update(self._stage, completed=event.done)
                self._talk = (Text(stage_line(event)), roles_table(event.roles))
                self._draw()
        text = sentence(event) or self._troubles.sentence(event)
        if text is not None:
            self._console.print(text, markup=False, highlight=False)

    def _draw(self) -> None:
        """Conversations and an update stand below each other: with `refine.mode: overlap` both go on at once."""
        self._drawn_at = self._clock()
        self._live.update(Group(self._progress, *self._update, *self._talk), refresh=True)

    def _drop_bars(self) -> None:
        for task in (self._stage, self._training):
            if task is not None:
                self._progress.remove_task(task)
        self._stage = self._training = None
        self._talk = self._update = ()
        self._draw()


def roles_table(roles: Sequence[RoleProgress]) -> Table:
    """A row for each role; columns that say nothing for any role are left out."""
    rows = [role_cells(role) for role in roles if role.made or role.reused or role.in_flight or role.failed]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    told = [name for name in (rows[0] if rows else {}) if any(row[name] not in ("", "0") for row in rows)]
    for name in told:
        table.add_column(name, justify="left" if name in ("role", "at once", "slowest") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(row[name]) for name in told))
    return table


class JsonLog:
    """One JSON object a line: time, event, and the event's own fields. Of calls, the sums every `LOG_EVERY_S`.

    Written through at every event that is rare; the others wait for it. Raises `StoreError` when it cannot be written.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._logged_at = clock()
        self._out = path.open("a", encoding="utf-8")

    def __enter__(self) -> JsonLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # the disk is full: that has been said where it was met first
            self._out.close()

    def on_event(self, event: Event) -> None:
        if isinstance(event, CallStarted | CallFinished):
            return
        if isinstance(event, Progressed):
            if self._clock() - self._logged_at < LOG_EVERY_S and event.done < event.questions:
                return
            self._logged_at = self._clock()
        try:
            self._out.write(_json_line(event))
            if not isinstance(event, QuestionFinished | CallRetried):
                self._out.flush()
        except OSError as error:
            raise StoreError(
                f"{self._path} cannot be written: {error.strerror}; free some space and run again"
            ) from error


def _json_line(event: Event) -> str:
    """`dataclasses.asdict` copies deeply, at ten times the cost of the line."""
    names = event.__dataclass_fields__  # type: ignore[attr-defined]  # every event is a dataclass
    line = {"time": round(time.time(), 3), "event": type(event).__name__, **{n: getattr(event, n) for n in names}}
    return json.dumps(line, ensure_ascii=False, default=dataclasses.asdict) + "\n"
