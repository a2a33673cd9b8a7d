"""One SGLang server as this process sees it: its two interfaces, its work, and whether it answers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass

from meteor_agents.backends.http.openai_compatible import OpenAICompatibleModel
from meteor_agents.backends.sglang_servers.server import SGLangServer
from meteor_agents.backends.system_messages import system_before_first_user
from meteor_agents.errors import ModelError, RefusedCallError, TransientModelError
from meteor_agents.models import ChatMessage, Completion, SamplingParams
from meteor_agents.training import Checkpoint

FAILURES = 3
"""Calls in a row without an answer, after which a server that does accept connections is examined."""


@dataclass(slots=True, eq=False)
class Member:
    """One server of a pool."""

    server: SGLangServer
    chat: OpenAICompatibleModel
    timeout_s: float = 120
    """The time limit of one call."""
    in_flight: int = 0
    """How many of our calls it has not answered yet."""
    others: int = 0
    """Requests of other programs that waited there when its queue was last looked at."""
    failures: int = 0
    """Calls in a row that it did not answer."""
    out: bool = False
    """Left out until it answers again."""
    merges_system: bool = False
    """Whether its chat template is known to refuse a system message."""

    @property
    def work(self) -> int:
        """Requests that a new one would have to share the server with."""
        return self.in_flight + self.others

    async def complete(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion:
        """One reply.

        Where the model's chat template refuses a system message, the call is repeated with its text before the first user
        message, as training does it; later calls are made so at once. Raises `TransientModelError` after `timeout_s`.
        """
        if self.merges_system:
            return await self._timed(system_before_first_user(messages), sampling)
        try:
            return await self._timed(messages, sampling)
        except RefusedCallError as refused:
            merged = system_before_first_user(messages)
            if merged == list(messages) or not _REFUSES_SYSTEM.search(str(refused)):
                raise
            try:
                reply = await self._timed(merged, sampling)
            except RefusedCallError:
                raise refused from None
        self.merges_system = True
        return reply

    async def _timed(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion:
        self.in_flight += 1
        try:
            async with asyncio.timeout(self.timeout_s):
                reply = await self.chat.complete(messages, sampling)
        except TimeoutError:
            self.failures += 1
            raise TransientModelError(
                f"{self.chat.name}: no reply from {self.server.host} within {self.timeout_s:g} s", late=True
            ) from None
        except TransientModelError as error:
            if error.retry_after_s is None:  # otherwise it is up, and says when to come again
                self.failures += 1
            raise
        finally:
            self.in_flight -= 1
        self.failures = 0
        return reply

    async def queue_depth(self) -> int | None:
        """Requests that wait there; None when it does not say. What is not ours is remembered in `others`."""
        try:
            waiting = await self.server.waiting()
        except ModelError:
            return None
        if waiting is not None:
            self.others = max(0, waiting - self.in_flight)
        return waiting

    async def load(self, checkpoint: Checkpoint) -> ModelError | None:
        """Replace its weights; returns the error when that fails."""
        try:
            await self.server.load_weights(checkpoint.path, checkpoint.version)
        except ModelError as error:
            return error
        return None

    async def aclose(self) -> None:
        """Close every connection to it."""
        await self.chat.aclose()
        await self.server.aclose()


_REFUSES_SYSTEM = re.compile(r"system (role|message|prompt)|roles must alternate", re.IGNORECASE)
"""How chat templates word it, as the server's answer repeats it."""
