"""What a server takes: how many calls at once, when it wants none, and when it is given up.

Roles that are served from one address share one `Server`: its concurrency, its pauses and its circuit breaker.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from meteor_agents.abilities import ReportsQueue
from meteor_agents.errors import ModelError, ServerDown, TransientModelError

DECREASE = 0.7
"""What is left of the concurrency after the server said that it is too much."""
STEPS = 16
"""From 1 back to the ceiling takes about so many times the duration of a reply."""
GIVE_UP_S = 900
"""A server that asks for a longer pause than this (a day's quota is spent) is not waited for."""
QUEUE_EVERY_S = 1.0
"""How often a server is asked for the length of its own queue."""
LONG_QUEUE = 0.25
"""A queue of more than this share of our calls in flight is too long: the server gains nothing by it."""
AS_SET = "the limit set"
"""Why a concurrency is what it is, when all goes well."""


class AdaptiveLimit:
    """How many calls at once: additive increase, multiplicative decrease, between 1 and `ceiling`.

    A call that started before the last decrease says nothing about the concurrency since, so it decreases nothing:
    `generation` tells them apart.
    """

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self.generation = 0
        self.held = False
        """No increase for now: the server's own queue is not empty."""
        self._value = float(ceiling)
        self._step = max(1.0, ceiling / STEPS)

    @property
    def allowed(self) -> int:
        return int(self._value)

    def succeeded(self, *, in_use: bool) -> None:
        """A call went well. Only a limit that is made use of grows."""
        if in_use and not self.held and self._value < self.ceiling:
            self._value = min(float(self.ceiling), self._value + self._step / self._value)

    def overloaded(self, generation: int) -> bool:
        """A call of this generation met an overload; whether that decreased the limit."""
        if generation != self.generation:
            return False
        self.generation += 1
        self._value = max(1.0, self._value * DECREASE)
        return True


@dataclass(frozen=True, slots=True)
class BreakerRule:
    """When a server counts as down: of the last `calls` (at least `least`), `share` failed, for `for_s` seconds."""

    calls: int = 100
    least: int = 30
    share: float = 0.95
    for_s: float = 30
    """Failures that may pass have this long to do so; refusals of everything have not. Pauses do not count."""


class Breaker:
    """Watches the outcomes of a server's calls."""

    def __init__(self, rule: BreakerRule, clock: Callable[[], float]) -> None:
        self._rule = rule
        self._clock = clock
        self._outcomes: deque[ModelError | None] = deque(maxlen=rule.calls)
        self._failed = self._passing = 0
        self._bad_since: float | None = None

    def succeeded(self) -> None:
        self._add(None)
        if not self._bad():
            self._bad_since = None

    def failed(self, error: ModelError) -> str | None:
        """Why the server counts as down now; None when it does not."""
        self._add(error)
        if not self._bad():
            return None
        now = self._clock()
        self._bad_since = now if self._bad_since is None else self._bad_since
        if self._passing and now - self._bad_since < self._rule.for_s:
            return None
        return f"{self._failed} of its last {len(self._outcomes)} calls failed, the last with: {error}"

    def paused_until(self, moment: float) -> None:
        """Nothing can go well before this moment."""
        if self._bad_since is not None:
            self._bad_since = max(self._bad_since, moment)

    def _add(self, outcome: ModelError | None) -> None:
        if len(self._outcomes) == self._rule.calls:
            self._count(self._outcomes[0], -1)
        self._outcomes.append(outcome)
        self._count(outcome, 1)

    def _count(self, outcome: ModelError | None, by: int) -> None:
        self._failed += by * (outcome is not None)
        self._passing += by * isinstance(outcome, TransientModelError)

    def _bad(self) -> bool:
        n = len(self._outcomes)
        return n >= self._rule.least and self._failed >= self._rule.share * n


class Slots:
    """So many at once, first come, first served."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.closed = False
        """No one is let in for now."""
        self.taken = 0
        self._line: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._line)

    async def enter(self) -> None:
        if not self._line and not self.closed and self.taken < self.limit:
            self.taken += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave()  # let in and cancelled at once
            else:
                with suppress(ValueError):
                    self._line.remove(turn)
            raise

    def leave(self) -> None:
        self.taken -= 1
        self.admit()

    def admit(self) -> None:
        """Let in whoever has a place."""
        while self._line and not self.closed and self.taken < self.limit:
            turn = self._line.popleft()
            if not turn.done():
                self.taken += 1
                turn.set_result(None)

    def turn_away(self, error: Exception) -> None:
        """Raise `error` in everyone who waits."""
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_exception(error)


class Server:
    """One address, and what has been learnt of it. `ceiling` calls at once are never exceeded.

    `adaptive=False` (a model in this process): the concurrency stays as it is, and nothing is ever given up.
    """

    def __init__(
        self,
        name: str,
        ceiling: int,
        *,
        adaptive: bool = True,
        rule: BreakerRule | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._clock = clock
        self._limit = AdaptiveLimit(ceiling)
        self._slots = Slots(ceiling)
        self._breaker = Breaker(rule or BreakerRule(), clock) if adaptive else None
        self._down: ServerDown | None = None
        self._given_up = asyncio.Event()
        self._resumes_at = 0.0
        self._changed: tuple[float, str] | None = None
        self._queue: ReportsQueue | None = None
        self._queued: int | None = None

    @property
    def ceiling(self) -> int:
        return self._limit.ceiling

    @property
    def allowed(self) -> int:
        """Calls at once, now."""
        return self._slots.limit

    @property
    def in_flight(self) -> int:
        return self._slots.taken

    def raise_ceiling(self, ceiling: int) -> None:
        """Another role joins. Only before the first call."""
        if ceiling > self.ceiling:
            self._limit = AdaptiveLimit(ceiling)
            self._slots.limit = ceiling

    def report_queue(self, model: ReportsQueue) -> None:
        """Ask `model` for the length of the server's queue (`look_at_queue`)."""
        self._queue = model

    def why(self) -> str:
        """Why the concurrency is what it is, for a person."""
        now = self._clock()
        if self._down is not None:
            return "given up"
        if self._resumes_at > now:
            return f"paused for {self._resumes_at - now:.0f} s as {self._changed[1] if self._changed else 'asked'}"
        if self.allowed == self.ceiling or self._changed is None:
            return AS_SET
        moment, reason = self._changed
        queued = f", {self._queued} queued there" if self._queued else ""
        return f"of {self.ceiling}, lowered {now - moment:.0f} s ago: {reason}{queued}"

    async def enter(self) -> int:
        """Returns when a call may start: the generation that its end is reported with. Raises `ServerDown`."""
        if self._down is not None:
            raise self._down
        await self._slots.enter()
        return self._limit.generation

    def leave(self) -> None:
        self._slots.leave()

    def succeeded(self, pause_s: float = 0.0) -> None:
        """A call went well; by its headers the server wants none for `pause_s` seconds."""
        if self._breaker is None:
            return
        self._breaker.succeeded()
        if self.allowed < self.ceiling:
            self._limit.succeeded(in_use=self._slots.taken >= self._slots.limit)
            self._resize()
        if 0 < pause_s <= GIVE_UP_S:
            self._pause(pause_s, "its rate-limit headers say")

    def failed(self, generation: int, error: ModelError) -> None:
        """A call of this generation failed."""
        if self._breaker is None:
            return
        if isinstance(error, TransientModelError):
            if error.overload or error.late:
                self._lower(generation, "no reply in time" if error.late else "too many requests, it says")
            if error.retry_after_s is not None and error.retry_after_s > GIVE_UP_S:
                self._give_up(f"it asks for a pause of {error.retry_after_s / 60:.0f} minutes: {error}")
            elif error.overload and error.retry_after_s:
                self._pause(error.retry_after_s, "it asked (Retry-After)")
        if reason := self._breaker.failed(error):
            self._give_up(reason)

    async def rest(self, seconds: float) -> None:
        """Sleep before another try. Raises `ServerDown` as soon as the server is given up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._given_up.wait()
        if self._down is not None:
            raise self._down

    async def look_at_queue(self) -> None:
        """Once: what the server's own queue says about the concurrency."""
        if self._queue is None or not self.in_flight:
            return
        try:
            async with asyncio.timeout(QUEUE_EVERY_S):
                self._queued = await self._queue.queue_depth()
        except (TimeoutError, ModelError):
            return  # a server that is busy is not asked again before the next round
        self._limit.held = bool(self._queued)
        if self._queued is not None and self._queued > LONG_QUEUE * self.in_flight + 1:
            self._lower(self._limit.generation, "a long queue there")

    def _lower(self, generation: int, reason: str) -> None:
        if self._limit.overloaded(generation):
            self._changed = (self._clock(), reason)
            self._resize()

    def _resize(self) -> None:
        self._slots.limit = self._limit.allowed
        self._slots.admit()

    def _pause(self, seconds: float, reason: str) -> None:
        until = self._clock() + seconds
        if until <= self._resumes_at:
            return
        self._resumes_at = until
        self._changed = (self._clock(), reason)
        self._slots.closed = True
        if self._breaker is not None:
            self._breaker.paused_until(until)
        asyncio.get_running_loop().call_later(seconds, self._resume)

    def _resume(self) -> None:
        if self._clock() >= self._resumes_at - 0.001:
            self._slots.closed = False
            self._slots.admit()

    def _give_up(self, reason: str) -> None:
        if self._down is None:
            self._down = ServerDown(
                f"the server {self.name} is given up: {reason}. Everything received is saved; "
                "when it answers again, the same command goes on"
            )
            self._given_up.set()
            self._slots.turn_away(self._down)


async def watch_queues(servers: list[Server]) -> None:
    """Look at the servers' queues again and again, until cancelled."""
    while True:
        await asyncio.sleep(QUEUE_EVERY_S)
        for server in servers:
            await server.look_at_queue()
