"""What a person sees while a run goes on: a live view on a terminal, plain lines elsewhere, and the log in JSON lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from meteor_agents.cli.progress.json_log import JsonLog
from meteor_agents.cli.progress.live_view import LiveView
from meteor_agents.cli.progress.plain_lines import PlainLines
from meteor_agents.cli.terminal import PlainConsole
from meteor_agents.durations import duration
from meteor_agents.events import Observer

__all__ = ["JsonLog", "LiveView", "PlainLines", "duration", "open_progress"]


@contextmanager
def open_progress() -> Iterator[Observer]:
    """A live view when standard output is a terminal, else plain lines. Closed when the block ends."""
    console = PlainConsole()
    if console.is_terminal:
        with LiveView(console) as view:
            yield view
    else:
        yield PlainLines(sys.stdout)
