"""Progress as lines of text, for pipes, files and the logs of batch systems."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from meteor_agents.cli.progress.wording import Troubles, role_line, sentence, stage_line, training_line
from meteor_agents.cli.terminal import one_line
from meteor_agents.events import Event, Progressed, StageStarted, TrainingProgress

PLAIN_EVERY_S = 10.0
"""Seconds between two lines that say where the stage stands."""
STILL_EVERY_S = 60.0
"""The same while no call has ended since: models that take their time."""


class PlainLines:
    """An observer that prints one line per fact.

    Where the stage stands is printed at most every `PLAIN_EVERY_S`, and every `STILL_EVERY_S` while no call ends.
    """

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._troubles = Troubles(clock)
        self._shown_at = clock()
        self._ended: tuple[str, int] = ("", 0)

    def on_event(self, event: Event) -> None:
        """Print the event, if it is worth a line now."""
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
        print(one_line(text), file=self._out, flush=True)
