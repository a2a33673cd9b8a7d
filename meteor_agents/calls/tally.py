"""Counts what happens, at next to no cost for a call, and says once in a while where the run stands."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from meteor_agents.calls.server import Server
from meteor_agents.events import (
    CallFailed,
    CallFinished,
    CallRetried,
    CallStarted,
    Event,
    Observer,
    Progressed,
    QuestionFinished,
    QuestionLate,
    RoleProgress,
    StageStarted,
)

TICK_S = 1.0
RATE_S = 10
"""Calls per second are averaged over this many seconds."""
MINUTE_S = 60
"""The time left is estimated from this many seconds; a slow model has no rate over fewer."""


class Limited(Protocol):
    """A role's model behind its limits (`Throttled`)."""

    @property
    def server(self) -> Server:
        """The server that the model is asked at. Roles at one address share it."""
        ...

    @property
    def allowed(self) -> int:
        """Calls at once, now."""
        ...

    @property
    def waiting(self) -> int:
        """How many calls wait for their turn."""
        ...

    def why(self) -> str:
        """Why `allowed` is what it is, for a person."""
        ...


@dataclass(slots=True)
class _Role:
    made: int = 0
    reused: int = 0
    retried: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = None
    under_way: dict[str, list[float]] = field(default_factory=dict)
    """Question -> when its calls began (several at once where n replies are drawn), the question longest in flight first."""
    lately: deque[tuple[float, int]] = field(default_factory=deque)


class Tally:
    """An observer that only counts. `progress()` is what it has counted."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.limited: dict[str, Limited] = {}
        """Role -> its model, for what only that knows."""
        self._roles: dict[str, _Role] = {}
        self._start("", 0, 0)

    def on_event(self, event: Event) -> None:
        """Count what the event reports. Events that change no count are ignored."""
        if isinstance(event, CallFinished):
            self._finished(event)
        elif isinstance(event, CallStarted):
            under_way = self._role(event.role).under_way
            under_way.setdefault(event.question_id, []).append(self._clock())
        elif isinstance(event, QuestionFinished):
            self._settled(event.question_id)
            self._done += 1
            self._outcomes[event.outcome] += 1
            if event.outcome == "accepted":
                self._tries[event.tries] += 1
        elif isinstance(event, CallFailed):
            role = self._role(event.role)
            role.failed += 1
            _ended(role, event.question_id)
        elif isinstance(event, CallRetried):
            self._role(event.role).retried += 1
        elif isinstance(event, QuestionLate):
            self._settled(event.question_id)
            self._late += 1
        elif isinstance(event, StageStarted):
            self._start(event.stage, event.questions, event.done)

    def in_flight(self) -> int:
        """Calls that are asked and not yet answered, over all roles."""
        return sum(map(_in_flight, self._roles.values()))

    def progress(self) -> Progressed:
        """Where the stage and its roles stand now."""
        now = self._clock()
        _add(self._lately, now, self._done)
        return Progressed(
            stage=self._stage,
            questions=self._questions,
            done=self._done,
            outcomes=dict(self._outcomes),
            accepted_at_try=dict(sorted(self._tries.items())),
            late=self._late,
            seconds=round(now - self._started, 1),
            seconds_left=self._seconds_left(),
            roles=tuple(self._role_progress(name, role, now) for name, role in self._roles.items()),
        )

    def _start(self, stage: str, questions: int, done: int) -> None:
        self._stage, self._questions, self._done = stage, questions, done
        self._outcomes: Counter[str] = Counter()
        self._tries: Counter[int] = Counter()
        self._late = 0
        self._started = self._clock()
        self._lately: deque[tuple[float, int]] = deque([(self._started, done)])

    def _finished(self, event: CallFinished) -> None:
        role = self._role(event.role)
        if event.reused:
            role.reused += 1
            return
        role.made += 1
        role.input_tokens += event.input_tokens
        role.output_tokens += event.output_tokens
        if event.usd is not None:
            role.usd = (role.usd or 0.0) + event.usd
        _ended(role, event.question_id)

    def _settled(self, question_id: str) -> None:
        """Forget this question's calls under way: those that have not ended were cancelled."""
        for role in self._roles.values():
            role.under_way.pop(question_id, None)

    def _role(self, name: str) -> _Role:
        role = self._roles.get(name)
        if role is None:
            role = self._roles[name] = _Role(lately=deque([(self._clock(), 0)]))
        return role

    def _role_progress(self, name: str, role: _Role, now: float) -> RoleProgress:
        limited = self.limited.get(name)
        slowest = next(iter(role.under_way.items()), None)
        _add(role.lately, now, role.made)
        return RoleProgress(
            role=name,
            made=role.made,
            reused=role.reused,
            retried=role.retried,
            failed=role.failed,
            in_flight=_in_flight(role),
            waiting=limited.waiting if limited else 0,
            input_tokens=role.input_tokens,
            output_tokens=role.output_tokens,
            usd=role.usd if role.usd is None else round(role.usd, 6),
            calls_per_s=round(_rate(role.lately, RATE_S), 2),
            calls_last_minute=role.made - _before(role.lately, MINUTE_S)[1],
            concurrency=limited.allowed if limited else None,
            concurrency_why=limited.why() if limited else "",
            slowest_question=slowest[0] if slowest else None,
            slowest_s=round(now - slowest[1][0], 1) if slowest else 0.0,
        )

    def _seconds_left(self) -> float | None:
        rate = _rate(self._lately, MINUTE_S)
        return round((self._questions - self._done) / rate, 1) if rate else None


def _in_flight(role: _Role) -> int:
    return sum(map(len, role.under_way.values()))


def _ended(role: _Role, question_id: str) -> None:
    """One call of this question; which of several is not told, and they began together."""
    began = role.under_way.get(question_id)
    if began:
        began.pop()
    if not began:
        role.under_way.pop(question_id, None)


def _add(lately: deque[tuple[float, int]], now: float, count: int) -> None:
    """Add a sample, and drop those that are no longer needed."""
    lately.append((now, count))
    while len(lately) > 2 and lately[1][0] <= now - MINUTE_S:
        lately.popleft()


def _before(lately: deque[tuple[float, int]], over_s: float) -> tuple[float, int]:
    """The newest sample (moment, count) at least `over_s` seconds older than the last one; else the first."""
    last = lately[-1][0]
    return next((sample for sample in reversed(lately) if sample[0] <= last - over_s), lately[0])


def _rate(lately: deque[tuple[float, int]], over_s: float) -> float:
    """Calls per second over the last `over_s` seconds."""
    last, count = lately[-1]
    first, before = _before(lately, over_s)
    return (count - before) / (last - first) if last > first else 0.0


async def keep_telling(tally: Tally, observer: Observer) -> None:
    """Give the observer a `Progressed` every second, until cancelled."""
    while True:
        await asyncio.sleep(TICK_S)
        observer.on_event(tally.progress())
