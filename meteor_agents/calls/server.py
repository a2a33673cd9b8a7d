"""What a server takes: how many calls at once, when it wants none, and when it is given up.

Roles that are served from one address share one `Server`: its concurrency, its pauses and its health. Each role also has a
`Health` of its own, since one model may fail where another one at the same address does not.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from meteor_agents.abilities import ReportsQueue
from meteor_agents.calls.concurrency import AdaptiveLimit, Slots
from meteor_agents.calls.health import BreakerRule, Health
from meteor_agents.errors import ModelError, ServerDown, TransientModelError

GIVE_UP_S = 900
"""A server that asks for a longer pause than this (a day's quota is spent) is given up instead of waited for."""
QUEUE_EVERY_S = 1.0
"""How often a server is asked for the length of its own queue."""
LONG_QUEUE = 0.25
"""A queue of more than this share of our calls in flight is too long: the server gains nothing by it."""
AS_SET = "the limit set"
"""Why a concurrency is what it is, when all goes well."""


class Server:
    """One address, and what has been learnt about it. `ceiling` calls at once are never exceeded.

    `adaptive=False` (a model in this process): the concurrency stays as it is, and nothing is ever given up. `rule` says
    when the server, and a role at it, count as down.
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
        self.adaptive = adaptive
        self._clock = clock
        self._rule = rule
        self._limit = AdaptiveLimit(ceiling)
        self._slots = Slots(ceiling)
        self._health = Health(f"the server {name}", rule, clock)
        self._roles: list[Health] = []
        self._resumes_at = 0.0
        self._changed: tuple[float, str] | None = None
        self._queue: ReportsQueue | None = None
        self._queued: int | None = None

    @property
    def ceiling(self) -> int:
        """The most calls at once that the server is ever given."""
        return self._limit.ceiling

    @property
    def allowed(self) -> int:
        """Calls at once, now."""
        return self._slots.limit

    @property
    def in_flight(self) -> int:
        """Calls at the server now."""
        return self._slots.taken

    @property
    def roles(self) -> int:
        """How many roles are served from here."""
        return len(self._roles)

    def role(self, model: str) -> Health:
        """The health of one role's model here. It is given up with the server, or alone."""
        health = Health(f"{model} at {self.name}", self._rule, self._clock)
        self._roles.append(health)
        return health

    def raise_ceiling(self, ceiling: int) -> None:
        """Another role joins. Only before the first call."""
        if ceiling > self.ceiling:
            self._limit = AdaptiveLimit(ceiling)
            self._slots.limit = ceiling

    def lower_ceiling(self, ceiling: int) -> None:
        """Fewer calls at once fit here than the settings allow. Only before the first call."""
        self._limit = AdaptiveLimit(min(ceiling, self.ceiling))
        self._slots.limit = self.ceiling

    def report_queue(self, model: ReportsQueue) -> None:
        """Ask `model` for the length of the server's queue (`look_at_queue`)."""
        self._queue = model

    def why(self) -> str:
        """Why the concurrency is what it is, for a person."""
        now = self._clock()
        if self._health.down is not None:
            return "given up"
        if self._resumes_at > now:
            return f"paused for {self._resumes_at - now:.0f} s as {self._changed[1] if self._changed else 'asked'}"
        if self.allowed == self.ceiling or self._changed is None:
            return AS_SET
        moment, reason = self._changed
        queued = f", {self._queued} queued there" if self._queued else ""
        return f"of {self.ceiling}, lowered {now - moment:.0f} s ago: {reason}{queued}"

    async def enter(self) -> int:
        """Wait until a call may start. Returns the generation to report its end with. Raises `ServerDown`."""
        if self._health.down is not None:
            raise self._health.down
        await self._slots.enter()
        return self._limit.generation

    def leave(self) -> None:
        """The call has ended."""
        self._slots.leave()

    def succeeded(self, pause_s: float = 0.0) -> None:
        """A call went well. By its headers the server wants no further one for `pause_s` seconds.

        A pause that is not believable, or longer than `GIVE_UP_S`, is not waited for: if the server means it, it refuses
        the next call.
        """
        if not self.adaptive:
            return
        self._health.succeeded()
        if self.allowed < self.ceiling:
            self._limit.succeeded(in_use=self._slots.taken >= self._slots.limit)
            self._resize()
        if math.isfinite(pause_s) and 0 < pause_s <= GIVE_UP_S:
            self._pause(pause_s, "its rate-limit headers say")

    def failed(self, generation: int, error: ModelError) -> None:
        """A call of this generation failed."""
        if not self.adaptive:
            return
        if isinstance(error, TransientModelError):
            if error.overload or error.late:
                self._lower(generation, "no reply in time" if error.late else "too many requests, it says")
            if error.retry_after_s is not None and error.retry_after_s > GIVE_UP_S:
                self._health.give_up(f"it asks for a pause of {error.retry_after_s / 60:.0f} minutes: {error}")
            elif error.overload and error.retry_after_s:
                self._pause(error.retry_after_s, "it asked (Retry-After)")
        self._health.failed(error)
        if self._health.down is not None:
            self._tell_down(self._health.down)

    def overfull_here(self, generation: int) -> None:
        """A call could not be made for want of something in this process: no fault of the server's."""
        if self.adaptive:
            self._lower(generation, "this process may not open more files")

    async def rest(self, seconds: float) -> None:
        """Sleep before another try. Raises `ServerDown` as soon as the server is given up."""
        await self._health.rest(seconds)

    async def look_at_queue(self) -> None:
        """Ask once for the length of the server's own queue, and adapt the concurrency to it."""
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
        for health in (self._health, *self._roles):
            health.paused_until(until)
        asyncio.get_running_loop().call_later(seconds, self._resume)

    def _resume(self) -> None:
        if self._clock() >= self._resumes_at - 0.001:
            self._slots.closed = False
            self._slots.admit()

    def _tell_down(self, down: ServerDown) -> None:
        for health in self._roles:
            health.give_up(down)
        self._slots.turn_away(down)


async def watch_queues(servers: list[Server]) -> None:
    """Look at the servers' queues again and again, until cancelled."""
    while True:
        await asyncio.sleep(QUEUE_EVERY_S)
        for server in servers:
            await server.look_at_queue()
