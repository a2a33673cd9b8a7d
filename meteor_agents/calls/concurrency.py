"""How many calls at once: a limit that adapts to what a server takes, and the places that it gives out."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

DECREASE = 0.7
"""What is left of the concurrency after the server has said that it is too much."""
STEPS = 16
"""Growing from 1 back to the ceiling takes about this many reply times."""


class AdaptiveLimit:
    """How many calls at once, between 1 and `ceiling`: additive increase, multiplicative decrease.

    A call that started before the last decrease says nothing about the concurrency since then, so it causes no further
    decrease; `generation` tells such calls apart.
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
        """Calls at once, now."""
        return int(self._value)

    def succeeded(self, *, in_use: bool) -> None:
        """A call went well. The limit grows only if it was used in full."""
        if in_use and not self.held and self._value < self.ceiling:
            self._value = min(float(self.ceiling), self._value + self._step / self._value)

    def overloaded(self, generation: int) -> bool:
        """A call of this generation met an overload. Returns whether that decreased the limit."""
        if generation != self.generation:
            return False
        self.generation += 1
        self._value = max(1.0, self._value * DECREASE)
        return True


class Slots:
    """Places for at most `limit` holders at once, first come, first served."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.closed = False
        """Nobody is let in for now."""
        self.taken = 0
        self._line: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return len(self._line)

    async def enter(self) -> None:
        """Returns when there is a place. Raises what `turn_away` was given."""
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
        """Give a place back."""
        self.taken -= 1
        self.admit()

    def admit(self) -> None:
        """Let in as many as there are places for."""
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
