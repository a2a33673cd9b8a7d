"""How fast one role's model may be asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from meteor_agents.abilities import BoundsItsCalls, RunsHere, innermost
from meteor_agents.calls.concurrency import Slots
from meteor_agents.calls.open_files import out_of_files
from meteor_agents.calls.server import Server
from meteor_agents.calls.windows import Booking, RequestWindow, TokenWindow
from meteor_agents.errors import ModelError, NoCallSucceeds, TransientModelError
from meteor_agents.models import CHARACTERS_PER_TOKEN, ChatMessage, ChatModel, Completion, SamplingParams
from meteor_agents.settings.roles import Limits


class Throttled:
    """A chat model that asks `inner` no more often than `limits` and its server allow.

    The role's own limits come first, then those of the server, which other roles may share. A try that takes too long
    raises `TransientModelError`; waiting for a turn is not part of it. Raises `ServerDown` once the server, or this model
    at it, is given up. After a call that raised `NoCallSucceeds` (no credit left, a wrong key) no other one is sent.

    Without a `server`, the model has one of its own that never adapts. `minute_s` is the length of the window of the
    per-minute limits.
    """

    def __init__(self, inner: ChatModel, limits: Limits, server: Server | None = None, *, minute_s: float = 60) -> None:
        self.inner = inner
        core = innermost(inner)
        untimed = isinstance(core, BoundsItsCalls) or (isinstance(core, RunsHere) and core.in_process)
        self.server = server or Server(inner.name, limits.concurrency, adaptive=False)
        self._health = self.server.role(inner.name) if self.server.adaptive else None
        self.waiting = 0
        """Calls that are not yet allowed to start."""
        self._refused: NoCallSucceeds | None = None
        self._timeout_s = None if untimed else limits.timeout_s
        self._slots = Slots(limits.concurrency)
        self._requests = RequestWindow(limits.requests_per_minute, minute_s) if limits.requests_per_minute else None
        self._tokens = TokenWindow(limits.tokens_per_minute, minute_s) if limits.tokens_per_minute else None

    @property
    def name(self) -> str:
        """The inner model's name."""
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
        if self._health is not None and self._health.down is not None:
            return "given up"
        if self._requests is not None and self._requests.waiting:
            return "requests_per_minute"
        if self._tokens is not None and self._tokens.waiting:
            return "tokens_per_minute"
        return self.server.why()

    async def complete(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion:
        """The reply. Raises what `inner` raises, and `ServerDown`."""
        booking, generation = await self._admitted(messages, sampling)
        try:
            completion = await self._in_time(messages, sampling)
        except ModelError as error:
            raise self._blamed(error, generation) from error.__cause__
        finally:
            self.server.leave()
            self._slots.leave()
        self.server.succeeded(completion.pause_s)
        if self._health is not None:
            self._health.succeeded()
        if booking is not None and self._tokens is not None:
            self._tokens.settle(booking, _used_tokens(completion))
        return completion

    async def rest(self, seconds: float) -> None:
        """Sleep before another try. Raises `ServerDown` as soon as the server, or this model at it, is given up."""
        await (self._health or self.server).rest(seconds)

    async def aclose(self) -> None:
        """Close the inner model."""
        await self.inner.aclose()

    def _blamed(self, error: ModelError, generation: int) -> ModelError:
        """Count the failure against the server, the role, or this process; the error to raise."""
        if ours := out_of_files(error):
            self.server.overfull_here(generation)
            return TransientModelError(f"{self.name}: {ours}")
        if isinstance(error, NoCallSucceeds):
            self._refused = error
            self._slots.turn_away(error)
        self.server.failed(generation, error)
        if self._health is not None:
            self._health.failed(error)
            if self._health.down is not None:
                self._slots.turn_away(self._health.down)
        return error

    async def _admitted(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> tuple[Booking | None, int]:
        """Wait for a place among the role's calls, for its allowance, then for a place at the server.

        Returns what was booked of the tokens per minute, and the server's generation.
        """
        if self._health is not None and self._health.down is not None:
            raise self._health.down
        if self._refused is not None:
            raise self._refused
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
