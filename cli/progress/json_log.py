"""Progress as JSON lines in the run directory (`log.jsonl`), for programs."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from meteor_agents.cli.terminal import escape_json
from meteor_agents.errors import StoreError
from meteor_agents.events import CallFinished, CallRetried, CallStarted, Event, Progressed, QuestionFinished

LOG_EVERY_S = 10.0
"""Seconds between two lines about calls."""


class JsonLog:
    """An observer that writes one JSON object per line: time, event, and the event's own fields.

    Single calls are not logged; their sums are, every `LOG_EVERY_S`. Rare events are flushed at once, frequent ones with
    the next rare one. Raises `StoreError` when the file cannot be written.
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
        with suppress(OSError):  # a full disk: the write that met it first has raised
            self._out.close()

    def on_event(self, event: Event) -> None:
        """Write the event, unless it is a single call or sums of calls that come too soon after the last."""
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
    """The line for an event. (`dataclasses.asdict` copies deeply and would take ten times as long.)"""
    names = event.__dataclass_fields__  # type: ignore[attr-defined]  # every event is a dataclass
    line = {"time": round(time.time(), 3), "event": type(event).__name__, **{n: getattr(event, n) for n in names}}
    return escape_json(json.dumps(line, ensure_ascii=False, default=dataclasses.asdict)) + "\n"
