"""Another try after a failure that may pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from meteor_agents.calls.server import GIVE_UP_S
from meteor_agents.errors import TransientModelError
from meteor_agents.models import ChatMessage, ChatModel, Completion, SamplingParams
from meteor_agents.settings.roles import Limits


@runtime_checkable
class Rests(Protocol):
    """A model that knows how to wait for its server."""

    async def rest(self, seconds: float) -> None:
        """Sleep, and raise `ServerDown` as soon as waiting is in vain."""
        ...


class Retrying:
    """A chat model that asks `inner` again, up to `limits.retries` times, when it raises `TransientModelError`.

    `Retrying(Throttled(model, limits, server), limits)`: each try passes the throttle. A call that was late is not asked
    again here, because its conversation would wait for several time-outs in a row: the engine puts the question back in
    line. Nor is one whose server asks for a longer pause than `GIVE_UP_S`.

    Pauses grow exponentially from `first_wait_s` to `longest_wait_s` with jitter, and are never shorter than what the
    server asked for. `on_retry` is called with the reason and the pause before each. The last error is raised as it is.
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
        self._on_retry = on_retry
        self._pause = wait_exponential(multiplier=first_wait_s, max=longest_wait_s) + wait_random(0, first_wait_s)
        self._retrying = AsyncRetrying(
            stop=stop_after_attempt(limits.retries + 1),
            wait=self._wait_s,
            retry=retry_if_exception(_may_pass),
            before_sleep=self._tell,
            sleep=inner.rest if isinstance(inner, Rests) else asyncio.sleep,
            reraise=True,
        )

    @property
    def name(self) -> str:
        """The inner model's name."""
        return self.inner.name

    async def complete(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion:
        """The reply. Raises the error of the last try."""
        return await self._retrying.copy()(self.inner.complete, messages, sampling)  # its state is that of one call

    async def aclose(self) -> None:
        """Close the inner model."""
        await self.inner.aclose()

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
