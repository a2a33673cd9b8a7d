"""Limits on the requests, or tokens, of any minute."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass

from asyncio_throttle.throttler import Throttler

POLL_S = 0.05
"""How often the first call in line checks whether the window has room again."""


class RequestWindow:
    """At most `limit` entries in any `window_s` seconds."""

    def __init__(self, limit: int, window_s: float) -> None:
        self._throttler = Throttler(rate_limit=limit, period=window_s, retry_interval=min(POLL_S, window_s / 10))
        self._head = asyncio.Lock()

    @property
    def waiting(self) -> bool:
        """Whether a call waits for room."""
        return self._head.locked()

    async def enter(self) -> None:
        """Returns when one more entry fits the window."""
        async with self._head:  # the throttler polls: one waiter costs nothing, a thousand cost a core
            await self._throttler.acquire()


@dataclass(slots=True)
class Booking:
    """Tokens of one call: those expected when it starts, those used when it has ended."""

    at: float
    tokens: int
    gone: bool = False
    """Whether it is older than the window."""


class TokenWindow:
    """At most `limit` tokens in any `window_s` seconds. A call that needs more than that is made alone."""

    def __init__(self, limit: int, window_s: float) -> None:
        self._limit = limit
        self._window_s = window_s
        self._bookings: deque[Booking] = deque()
        self._booked = 0
        self._head = asyncio.Lock()

    @property
    def waiting(self) -> bool:
        """Whether a call waits for room."""
        return self._head.locked()

    async def book(self, tokens: int) -> Booking:
        """Wait until `tokens` fit the window, and take them."""
        async with self._head:
            while not self._has_room(tokens):  # noqa: ASYNC110 - what is awaited is time
                await asyncio.sleep(min(POLL_S, self._window_s / 10))
            booking = Booking(time.monotonic(), tokens)
            self._bookings.append(booking)
            self._booked += tokens
            return booking

    def settle(self, booking: Booking, used: int | None) -> None:
        """Replace what was expected by what the call really used; None if that is unknown."""
        if used is not None and not booking.gone:
            self._booked += used - booking.tokens
            booking.tokens = used

    def _has_room(self, tokens: int) -> bool:
        oldest = time.monotonic() - self._window_s
        while self._bookings and self._bookings[0].at < oldest:
            booking = self._bookings.popleft()
            booking.gone = True
            self._booked -= booking.tokens
        return self._booked + tokens <= self._limit or not self._bookings
