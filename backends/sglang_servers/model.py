"""A model on SGLang: on one server, on several that share the work, or on one that is launched for the run.

The life of a call:

1. While the weights are being replaced, or the trainer has the memory, the call waits.
2. The server with the least work takes it. A launched one is started first, or waited for while it restarts.
3. A server that cannot be reached, or fails, is left out, and the call goes to another; one that is only slow stays. A
   call never gives up a launched server: it waits for the restart, which does not count towards the call's time-out.
4. A server that was left out is taken back when it has generated a real token, with the right weights.
5. Each reply says which weights made it. A reply of other weights than ours is thrown away, and the call is repeated.

Calls in flight: `load_weights` lets them finish with the weights that they were begun with, and holds new ones back until
every server says that it serves the new version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from meteor_agents.abilities import ModelFacts
from meteor_agents.backends.sglang_servers.checked_weights import CheckedWeights
from meteor_agents.backends.sglang_servers.door import Door
from meteor_agents.backends.sglang_servers.launch import LaunchedServer
from meteor_agents.backends.sglang_servers.member import FAILURES, Member
from meteor_agents.backends.sglang_servers.pool import Pool
from meteor_agents.backends.sglang_servers.server import Patience
from meteor_agents.backends.sglang_servers.server_process import Served
from meteor_agents.errors import SettingsError, TransientModelError, UnreachableError
from meteor_agents.models import ChatMessage, Completion, SamplingParams
from meteor_agents.training import Checkpoint

MEMORY_SAVER, SEEDS = "enable_memory_saver", "enable_deterministic_inference"
"""Options that a server must have been started with: to release its memory, and to keep to a seed."""
TRIES = 4
"""Tries of one call at a launched server that keeps going away."""


class SGLangModel:
    """Chat completions from `members`. `launched` is the process of the only member, if it is ours.

    With a `base`, this is the student: a launched server is started with that checkpoint's weights. Each try at a server is
    bounded by its member's time-out; waiting for a restart or for new weights does not count. `note` hears sentences for
    people.
    """

    def __init__(
        self,
        name: str,
        members: Sequence[Member],
        *,
        launched: LaunchedServer | None = None,
        base: Checkpoint | None = None,
        free_while_training: bool = False,
        note: Callable[[str], None] = lambda sentence: None,
        patience: Patience | None = None,
    ) -> None:
        self._name = name
        self._launched = launched
        self._base = base
        self._free_while_training = free_while_training
        self._note = note
        self._door = Door()
        self._pool = Pool(name, members, self._door, note, patience or Patience())
        self._waking = asyncio.Lock()
        self._freed = False
        self._seeds_looked_at = False

    @property
    def name(self) -> str:
        """What replies name as their model."""
        return self._name

    @property
    def call_timeout_s(self) -> float:
        """The time-out of one try at a server, which this model enforces."""
        return self._pool.members[0].timeout_s

    async def facts(self) -> ModelFacts:
        """What the first server that is not left out says about its model."""
        first = next(iter(self._pool.answering()), None)
        return await first.chat.facts() if first else ModelFacts()

    async def open(self) -> None:
        """Start the launched server, or find one that answers.

        Raises `ServerDown` when a launched server does not start, `ModelError` when none answers, and `SettingsError` when a
        server cannot do what `while_training` asks of it.
        """
        if self._launched is not None:
            return await self._wake()
        if (silent := await self._pool.find()) is not None:
            raise silent
        if self._free_while_training:
            for member in self._pool.answering():
                if not await member.server.has(MEMORY_SAVER):
                    raise SettingsError(
                        f"while_training: free, but {member.server.host} was started without --enable-memory-saver; "
                        "start it with that flag, or let meteor launch it"
                    )
        return None

    async def complete(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion:
        """The reply to `messages`; see `meteor_agents.models.ChatModel`. Raises `ServerDown` when ours was given up."""
        async with self._door.through():
            await self._wake()
            if sampling.seed is not None and not self._seeds_looked_at:
                await self._look_at_seeds()
            if self._launched is not None:
                return await self._ask_launched(self._launched, messages, sampling)
            return await self._pool.ask(messages, sampling)

    async def queue_depth(self) -> int | None:
        """Requests that wait on all servers together; None when none of them says."""
        if self._freed or (self._launched is not None and not self._launched.running):
            return None
        return await self._pool.queue_depth()

    async def free_memory(self) -> None:
        """With `free_while_training`, release the servers' memory, or stop a launched one that cannot do that."""
        if not self._free_while_training:
            return
        async with self._door.closed():
            self._freed = True
            for member in self._pool.answering():
                if self._launched is None or await member.server.has(MEMORY_SAVER):
                    await member.server.release_memory()
                else:
                    await self._launched.stop()

    async def aclose(self) -> None:
        """End what was launched, and every connection."""
        await self._pool.aclose()
        if self._launched is not None:
            await self._launched.stop()
        for member in self._pool.members:
            await member.aclose()

    async def _ask_launched(
        self, launched: LaunchedServer, messages: Sequence[ChatMessage], sampling: SamplingParams
    ) -> Completion:
        (member,) = self._pool.members
        for tries in range(1, TRIES + 1):
            await launched.up()
            try:
                reply = await member.complete(messages, sampling)
            except UnreachableError:
                launched.doubt()
                if tries == TRIES:
                    raise
            except TransientModelError:
                if member.failures >= FAILURES:
                    member.failures = 0
                    launched.doubt()
                raise
            else:
                return self._pool.checked(reply)
        raise AssertionError("the last try returns or raises")

    async def _wake(self) -> None:
        """Returns when the servers are running and hold their memory."""
        launched = self._launched
        if not self._freed and (launched is None or launched.running):
            return
        async with self._waking:
            if self._freed:
                await self._resume()
            if launched is not None and not launched.running:
                await self._start(launched)

    async def _start(self, launched: LaunchedServer) -> None:
        start = self._pool.served or (CheckedWeights.as_it_is(self._base) if self._base else None)
        await launched.start(Served.of(start) if start else Served(self._name, self._name))
        self._pool.served = start

    async def _resume(self) -> None:
        if self._launched is None or self._launched.running:
            for member in self._pool.answering():
                await member.server.resume_memory()
        self._freed = False

    async def _look_at_seeds(self) -> None:
        self._seeds_looked_at = True
        for member in self._pool.answering():
            with suppress(TransientModelError):
                if not await member.server.has(SEEDS):
                    self._note(
                        f"{member.server.host} takes a seed but does not keep to it: it was started without "
                        "--enable-deterministic-inference"
                    )
