"""When a server, or one role at it, is given up: a circuit breaker, and how to wait for what may yet recover."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from meteor_agents.errors import ModelError, ServerDown, TransientModelError


@dataclass(frozen=True, slots=True)
class BreakerRule:
    """When something counts as down: of its last `calls` (at least `least`), `share` failed, for `for_s` seconds."""

    calls: int = 100
    least: int = 30
    share: float = 0.95
    for_s: float = 30
    """Failures that may pass are given this long; when every call is refused there is no such delay. Pauses do not count."""


class Breaker:
    """Watches the outcomes of calls."""

    def __init__(self, rule: BreakerRule, clock: Callable[[], float]) -> None:
        self._rule = rule
        self._clock = clock
        self._outcomes: deque[ModelError | None] = deque(maxlen=rule.calls)
        self._failed = self._passing = 0
        self._bad_since: float | None = None

    def succeeded(self) -> None:
        """A call went well."""
        self._add(None)
        if not self._bad():
            self._bad_since = None

    def failed(self, error: ModelError) -> str | None:
        """A call failed. Returns why what is watched counts as down now, or None when it does not."""
        self._add(error)
        if not self._bad():
            return None
        now = self._clock()
        self._bad_since = now if self._bad_since is None else self._bad_since
        if self._passing and now - self._bad_since < self._rule.for_s:
            return None
        return f"{self._failed} of its last {len(self._outcomes)} calls failed, the last with: {error}"

    def paused_until(self, moment: float) -> None:
        """No call can go well before this moment, so the time until then is not held against anyone."""
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


class Health:
    """Whether `name` (a server, or one role's model at it) is still asked. Once given up, it stays given up."""

    def __init__(
        self, name: str, rule: BreakerRule | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self.down: ServerDown | None = None
        """Why it is given up; None while it is not."""
        self._breaker = Breaker(rule or BreakerRule(), clock)
        self._given_up = asyncio.Event()

    def succeeded(self) -> None:
        """A call went well."""
        self._breaker.succeeded()

    def failed(self, error: ModelError) -> None:
        """A call failed; if nearly all do, this gives up."""
        if reason := self._breaker.failed(error):
            self.give_up(reason)

    def paused_until(self, moment: float) -> None:
        """No call can go well before this moment."""
        self._breaker.paused_until(moment)

    def give_up(self, reason: str | ServerDown) -> None:
        """Ask no more. Only the first reason counts."""
        if self.down is not None:
            return
        if isinstance(reason, str):
            reason = ServerDown(
                f"{self.name} is given up: {reason}. Everything received is saved; "
                "when it answers again, run the same command to continue"
            )
        self.down = reason
        self._given_up.set()

    async def rest(self, seconds: float) -> None:
        """Sleep before another try. Raises `ServerDown` as soon as this is given up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._given_up.wait()
        if self.down is not None:
            raise self.down
