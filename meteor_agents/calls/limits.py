"""How fast a model may be asked, and how often again: wrappers that are chat models themselves.

`Retrying(Throttled(model, limits, server), limits)`: each try passes the throttle, and waiting for a slot is not part of a
call's time-out. The role's own limits come first, then those of the server, which other roles may share.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from asyncio_throttle.throttler import Throttler
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from meteor_agents.abilities import BoundsItsCalls, RunsHere, innermost
from meteor_agents.calls.server import GIVE_UP_S, Server, Slots
from meteor_agents.errors import ModelError, TransientModelError
from meteor_agents.models import CHARACTERS_PER_TOKEN, ChatMessage, ChatModel, Completion, SamplingParams
from meteor_agents.settings.limits import Limits

POLL_S = 0.05
"""How often the one waiter at the head of a queue looks whether the window has room again."""










class Throttled:
    """Asks `inner` no more than `limits` and its server allow. A try that takes too long raises `TransientModelError`.

    `server` is shared by the roles that it serves; without one, the model has a server of its own that never adapts.
    `minute_s` is the length of the window that the per-minute limits speak of.
    """

    def __init__(self, inner: ChatModel, limits: Limits, server: Server | None = None, *, minute_s: float = 60) -> None:
        self.inner = inner
        core = innermost(inner)
        untimed = isinstance(core, BoundsItsCalls) or (isinstance(core, RunsHere) and core.in_process)
        self.server = server or Server(inner.name, limits.concurrency, adaptive=False)
        self.waiting = 0
        """Calls that are not yet allowed to start."""
        self._timeout_s = None if untimed else limits.timeout_s
        self._slots = Slots(limits.concurrency)
        self._requests = RequestWindow(limits.requests_per_minute, minute_s) if limits.requests_per_minute else None
        self._tokens = TokenWindow(limits.tokens_per_minute, minute_s) if limits.tokens_per_minute else None

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def ceiling(self) -> int:
        """Calls at once when all goes well."""
        return self._slots.limit

    @property
    def allowed(self) -> int:
        """Calls at once, now."""
        return min(self._slots.limit, self.server.allowed)

    def why(self) -> str:
        """Why `allowed` is what it is, for a person."""
        if self._requests is not None and self._requests.waiting:
            return "requests_per_minute"
        if self._tokens is not None and self._tokens.waiting:
            return "tokens_per_minute"
        return self.server.why()

    async def complete(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion:
        booking, generation = await self._admitted(messages, sampling)
        try:
            completion = await self._in_time(messages, sampling)
            self.server.succeeded(completion.pause_s)
        except ModelError as error:
            self.server.failed(generation, error)
            raise
        finally:
            self.server.leave()
            self._slots.leave()
        if booking is not None and self._tokens is not None:
            self._tokens.settle(booking, _used_tokens(completion))
        return completion

    async def rest(self, seconds: float) -> None:
        """Sleep before another try. Raises `ServerDown` as soon as the server is given up."""
        await self.server.rest(seconds)

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def _admitted(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> tuple[Booking | None, int]:
        """Wait for a place of the role, for its allowance, then for a place of the server: its generation."""
        self.waiting += 1
        try:
            await self._slots.enter()
            try:
                return await self._booked(messages, sampling), await self.server.enter()
            except BaseException:
                self._slots.leave()
                raise
        finally:
            self.waiting -= 1

    async def _booked(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Booking | None:
        if self._requests is not None:
            await self._requests.enter()
        if self._tokens is None:
            return None
        return await self._tokens.book(_expected_tokens(messages, sampling))

    async def _in_time(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self.inner.complete(messages, sampling)
        except TimeoutError as late:
            raise TransientModelError(f"{self.name}: no reply within {self._timeout_s:g} s", late=True) from late


def _expected_tokens(messages: Sequence[ChatMessage], sampling: SamplingParams) -> int:
    return sum(len(message.content) for message in messages) // CHARACTERS_PER_TOKEN + sampling.max_tokens


def _used_tokens(completion: Completion) -> int | None:
    usage = completion.usage
    if usage.input_tokens is None or usage.output_tokens is None:
        return None
    return usage.input_tokens + usage.output_tokens


class RequestWindow:
    """At most `limit` entries in any `window_s` seconds."""

    def __init__(self, limit: int, window_s: float) -> None:
        self._throttler = Throttler(rate_limit=limit, period=window_s, retry_interval=min(POLL_S, window_s / 10))
        self._head = asyncio.Lock()

    @property
    def waiting(self) -> bool:
        return self._head.locked()

    async def enter(self) -> None:
        async with self._head:  # the throttler polls: one waiter costs nothing, a thousand cost a core
            await self._throttler.acquire()


@dataclass(slots=True)
class Booking:
    """Tokens of one call: expected when it starts, counted when it has ended."""

    at: float
    tokens: int
    gone: bool = False
    """Older than the window."""


class TokenWindow:
    """At most `limit` tokens in any `window_s` seconds. A call that needs more than `limit` alone goes alone."""

    def __init__(self, limit: int, window_s: float) -> None:
        self._limit = limit
        self._window_s = window_s
        self._bookings: deque[Booking] = deque()
        self._booked = 0
        self._head = asyncio.Lock()

    @property
    def waiting(self) -> bool:
        return self._head.locked()

    async def book(self, tokens: int) -> Booking:
        async with self._head:
            while not self._has_room(tokens):  # noqa: ASYNC110 - what is awaited is time
                await asyncio.sleep(min(POLL_S, self._window_s / 10))
            booking = Booking(time.monotonic(), tokens)
            self._bookings.append(booking)
            self._booked += tokens
            return booking

    def settle(self, booking: Booking, used: int | None) -> None:
        """What the call really used takes the place of what was expected; None: unknown."""
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


@runtime_checkable
class Rests(Protocol):
    """A model that knows how to wait for its server."""

    async def rest(self, seconds: float) -> None: ...


class Retrying:
    """Asks `inner` again, up to `limits.retries` times, when it raises `TransientModelError`.

    A call that was late is not asked again here: whoever waits for it would wait several time-outs in a row. The engine
    puts its question back in line.

    Pauses grow exponentially from `first_wait_s` to `longest_wait_s` with jitter, and are never shorter than what the
    server asked for. `on_retry` hears the reason and the pause before each. The last error is raised as it is.
    """

    def __init__(
        self,
        inner: ChatModel,
        limits: Limits,
        on_retry: Callable[[str, float], None] = lambda reason, wait_s: None,
        *,
        first_wait_s: float = 1,
        longest_wait_s: float = 60,
    ) -> None:
        self.inner = inner
        self._tries = limits.retries + 1
        self._rest = inner.rest if isinstance(inner, Rests) else asyncio.sleep
        self._on_retry = on_retry
        self._pause = wait_exponential(multiplier=first_wait_s, max=longest_wait_s) + wait_random(0, first_wait_s)

    @property
    def name(self) -> str:
        return self.inner.name

    async def complete(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion:
        try:
            return await self.inner.complete(messages, sampling)
        except TransientModelError as error:
            if error.late:
                raise
            first = error
        return await self._again(first, messages, sampling)

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def _again(
        self, first: TransientModelError, messages: Sequence[ChatMessage], sampling: SamplingParams
    ) -> Completion:
        """tenacity's machinery costs a tenth of a millisecond, so only a failed call enters it: with that failure."""
        failed = [first]

        async def attempt() -> Completion:
            if failed:
                raise failed.pop()
            return await self.inner.complete(messages, sampling)

        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._tries),
            wait=self._wait_s,
            retry=retry_if_exception(_may_pass),
            before_sleep=self._tell,
            sleep=self._rest,
            reraise=True,
        )
        return await retrying(attempt)

    def _wait_s(self, state: RetryCallState) -> float:
        return max(self._pause(state), _error(state).retry_after_s or 0)

    def _tell(self, state: RetryCallState) -> None:
        self._on_retry(str(_error(state)), state.upcoming_sleep)


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, TransientModelError) and not error.late and (error.retry_after_s or 0) <= GIVE_UP_S


def _error(state: RetryCallState) -> TransientModelError:
    error = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(error, TransientModelError), "only these are tried again"
    return error
