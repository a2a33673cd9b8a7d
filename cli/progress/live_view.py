"""Progress as a view that redraws itself at the bottom of a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from meteor_agents.cli.progress.wording import Troubles, role_cells, sentence, stage_line, training_line
from meteor_agents.cli.terminal import one_line, text_of
from meteor_agents.events import (
    CallFinished,
    CallStarted,
    Event,
    Progressed,
    QuestionFinished,
    RoleProgress,
    StageFinished,
    StageStarted,
    TrainingProgress,
    UpdateFinished,
)
from meteor_agents.safe_text import printable

DRAW_EVERY_S = 0.5
"""Seconds between two drawings of a training's progress."""


class LiveView:
    """An observer that draws the run. Finished facts scroll by above; below are bars for the current stage and training,
    and a table with one row per role.

    Drawn about once a second, not for each event.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._troubles = Troubles(clock)
        self._progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
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
        """Take the event in, and draw if it is time to."""
        match event:
            case CallStarted() | CallFinished() | QuestionFinished():
                return
            case StageStarted(stage, questions, done):
                self._drop_bars()
                self._stage = self._progress.add_task(one_line(stage), total=questions, completed=done)
            case TrainingProgress():
                self._train(event)
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
                self._talk = (text_of(stage_line(event)), roles_table(event.roles))
                self._draw()
        text = sentence(event) or self._troubles.sentence(event)
        if text is not None:
            self._console.print(printable(text), markup=False, highlight=False, emoji=False)

    def _train(self, event: TrainingProgress) -> None:
        name = one_line(event.name)
        if self._training is None:
            self._training = self._progress.add_task(name, total=event.steps)
        self._progress.update(self._training, description=name, completed=event.step, total=event.steps)
        self._update = (text_of(training_line(event)),)
        if self._clock() - self._drawn_at >= DRAW_EVERY_S:
            self._draw()

    def _draw(self) -> None:
        """Conversations and an update are drawn one below the other: with `refine.mode: overlap` both go on at once."""
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
    """One row per role that has been asked. Columns that are empty or 0 for every role are left out."""
    rows = [role_cells(role) for role in roles if role.made or role.reused or role.in_flight or role.failed]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    told = [name for name in (rows[0] if rows else {}) if any(row[name] not in ("", "0") for row in rows)]
    for name in told:
        table.add_column(name, justify="left" if name in ("role", "at once", "slowest") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(text_of(row[name]) for name in told))
    return table
