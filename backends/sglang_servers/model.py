"""A model on SGLang: on one server, on several that share the work, or on one that is launched for the run.

The life of a call:

1. While the weights are being replaced, or the memory is the trainer's, the call waits.
2. The server with the least work takes it. A launched one is started, or waited for while it starts again.
3. A server that cannot be reached, or fails, is left out, and the call goes to another; one that is only slow stays. A
   launched one is never given up by a call: its restart is waited for, outside the call's time-out.
4. A server that was left out is taken back when it has spoken a real token, with the right weights.
5. Each reply says which weights spoke it. One that was spoken by others than ours is thrown away and asked for again.

The rule for calls in flight: `load_weights` lets them finish with the weights that they were begun with, and holds new
ones back until every server says that it serves the new version.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from meteor_agents.abilities import ModelFacts
from meteor_agents.backends.http.openai_compatible import OpenAICompatibleModel
from meteor_agents.backends.sglang_servers.launch import LaunchedServer, Served
from meteor_agents.backends.sglang_servers.server import Patience, SGLangServer
from meteor_agents.errors import (
    ModelError,
    RefusedCallError,
    ServerDown,
    SettingsError,
    TransientModelError,
    UnreachableError,
)
from meteor_agents.models import ChatMessage, Completion, SamplingParams
from meteor_agents.training import Checkpoint
from meteor_agents.weight_files import damaged_weights, missing_parts

FAILURES = 3
"""Calls in a row without an answer, until a server that does accept connections is looked at."""
MEMORY_SAVER, SEEDS = "enable_memory_saver", "enable_deterministic_inference"
"""What a server must have been started with to release memory, and to keep to a seed."""
TRIES = 4
"""Of one call at a launched server that keeps going away under it."""


@dataclass(slots=True, eq=False)
class Member:
    """One server of the pool, as this process sees it."""

    server: SGLangServer
    chat: OpenAICompatibleModel
    in_flight: int = 0
    others: int = 0
    """Requests of other programs that waited there when its queue was last looked at."""
    failures: int = 0
    """Calls in a row that it did not answer."""
    out: bool = False
    """Left out until it answers again."""

    @property
    def work(self) -> int:
        return self.in_flight + self.others


class SGLangModel:
    """Chat completions from `members`. `launched` is the one member's process, if it is ours.

    With a `base`, this is the student: the servers are given that checkpoint's weights, and others by `load_weights`.
    `timeout_s` bounds each try at a server; waiting for a restart or for new weights is no part of it. `note` hears
    sentences for people.
    """

    def __init__(
        self,
        name: str,
        members: Sequence[Member],
        *,
        launched: LaunchedServer | None = None,
        base: Checkpoint | None = None,
        timeout_s: float = 120,
        free_while_training: bool = False,
        note: Callable[[str], None] = lambda sentence: None,
        patience: Patience | None = None,
    ) -> None:
        self._name = name
        self._members = tuple(members)
        self._launched = launched
        self._base = base
        self._timeout_s = timeout_s
        self._free_while_training = free_while_training
        self._note = note
        self._patience = patience or Patience()
        self._served: Checkpoint | None = None
        self._door = _Door()
        self._waking = asyncio.Lock()
        self._freed = False
        self._seeds_looked_at = False
        self._turn = 0
        self._looks: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        return self._name

    @property
    def call_timeout_s(self) -> float:
        return self._timeout_s

    async def facts(self) -> ModelFacts:
        """Of the first server that is not left out."""
        first = next(iter(self._in()), None)
        return await first.chat.facts() if first else ModelFacts()

    async def open(self) -> None:
        """Start the launched server, or find one that speaks. Raises `ServerDown`, `ModelError` or `SettingsError`."""
        if self._launched is not None:
            return await self._awake()
        found = await asyncio.gather(*(self._found(member) for member in self._members))
        silent = [error for error in found if error is not None]
        if len(silent) == len(self._members):
            raise silent[0]
        if self._free_while_training:
            for member in self._in():
                if not await member.server.has(MEMORY_SAVER):
                    raise SettingsError(
                        f"while_training: free, but {member.server.host} was started without --enable-memory-saver; "
                        "start it with that flag, or let meteor launch it"
                    )
        return None

    async def complete(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion:
        async with self._door.through():
            await self._awake()
            if sampling.seed is not None and not self._seeds_looked_at:
                await self._look_at_seeds()
            if self._launched is not None:
                return await self._ask_launched(self._launched, self._members[0], messages, sampling)
            return await self._ask_pool(messages, sampling)

    async def queue_depth(self) -> int | None:
        """Requests that wait on all servers together; None when none of them says."""
        if self._freed or (self._launched is not None and not self._launched.running):
            return None
        depths = await asyncio.gather(*(_depth(member) for member in self._in()))
        known = [depth for depth in depths if depth is not None]
        return sum(known) if known else None

    async def aclose(self) -> None:
        """End what was launched, and every connection."""
        for look in self._looks:
            look.cancel()
        if self._looks:
            await asyncio.wait(self._looks)
        if self._launched is not None:
            await self._launched.stop()
        for member in self._members:
            await member.chat.aclose()
            await member.server.aclose()

    # calls -----------------------------------------------------------------------------------------------------------

    async def _ask_launched(
        self, launched: LaunchedServer, member: Member, messages: Sequence[ChatMessage], sampling: SamplingParams
    ) -> Completion:
        for tries in range(1, TRIES + 1):
            await launched.up()
            try:
                reply = await self._ask(member, messages, sampling)
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
                return self._spoken_by_ours(reply)
        raise AssertionError("the last try returns or raises")

    async def _ask_pool(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion:
        tried: list[Member] = []
        failure: TransientModelError | None = None
        while (member := self._least_loaded(tried)) is not None:
            tried.append(member)
            try:
                return self._spoken_by_ours(await self._ask(member, messages, sampling))
            except (UnreachableError, _OtherWeights) as gone:
                self._leave_out(member, str(gone))
                failure = gone
            except TransientModelError as error:
                if (
                    error.late or error.overload
                ):  # it has too much to do: another call more or less elsewhere is no help
                    if error.late and member.failures >= FAILURES:
                        member.failures = 0
                        self._in_background(self._examine(member, str(error)))
                    raise
                if member.failures >= FAILURES:
                    self._leave_out(member, str(error))
                failure = error
        raise failure or UnreachableError(f"{self._name}: none of {len(self._members)} server(s) answers at the moment")

    async def _ask(self, member: Member, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion:
        member.in_flight += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                reply = await member.chat.complete(messages, sampling)
        except TimeoutError:
            member.failures += 1
            raise TransientModelError(
                f"{self._name}: no reply from {member.server.host} within {self._timeout_s:g} s", late=True
            ) from None
        except TransientModelError as error:
            if error.retry_after_s is None:  # otherwise it is up, and says when to come again
                member.failures += 1
            raise
        finally:
            member.in_flight -= 1
        member.failures = 0
        return reply

    def _spoken_by_ours(self, reply: Completion) -> Completion:
        """Raises `_OtherWeights` when the server says that other weights spoke."""
        if self._served is None or reply.weights == self._served.version:
            return reply
        if reply.weights == self._name:  # it does not say; what it serves was read back when it was loaded
            return replace(reply, weights=self._served.version)
        raise _OtherWeights(
            f"{self._name}: a server replied with the weights {reply.weights} instead of {self._served.version}; "
            "another program loaded them, or it was restarted"
        )

    def _least_loaded(self, tried: Sequence[Member]) -> Member | None:
        """Among equals the next one, so that a first burst is spread."""
        candidates = [member for member in self._in() if member not in tried]
        if not candidates:
            return None
        self._turn += 1
        least = min(member.work for member in candidates)
        equals = [member for member in candidates if member.work == least]
        return equals[self._turn % len(equals)]

    def _in(self) -> list[Member]:
        return [member for member in self._members if not member.out]

    async def _look_at_seeds(self) -> None:
        self._seeds_looked_at = True
        for member in self._in():
            with suppress(TransientModelError):
                if not await member.server.has(SEEDS):
                    self._note(
                        f"{member.server.host} takes a seed but does not keep to it: it was started without "
                        "--enable-deterministic-inference"
                    )

    # servers that come and go ----------------------------------------------------------------------------------------

    async def _found(self, member: Member) -> ModelError | None:
        try:
            await member.server.generate_token()
        except ModelError as silent:
            self._leave_out(member, str(silent))
            return silent
        return None

    async def _examine(self, member: Member, why: str) -> None:
        """A server that is slow stays; one that generates nothing any more does not."""
        if not await member.server.is_healthy():
            self._leave_out(member, why)

    def _leave_out(self, member: Member, why: str) -> None:
        if member.out:
            return
        member.out = True
        self._note(f"{member.server.host} is left out until it answers again: {why}")
        self._in_background(self._look_until_back(member))

    async def _look_until_back(self, member: Member) -> None:
        pause_s = self._patience.first_pause_s
        while member.out:
            await asyncio.sleep(pause_s)
            pause_s = min(self._patience.longest_pause_s, pause_s * 2)
            try:
                await member.server.generate_token()
                async with self._door.closing:  # new weights are not being loaded at this moment
                    if self._served is not None and await member.server.weights() != self._served.version:
                        await member.server.load_weights(self._served.path, self._served.version)
                    member.failures = 0
                    member.out = False
            except ModelError:
                continue
            self._note(f"{member.server.host} answers again and is taken back")

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)

    # memory ----------------------------------------------------------------------------------------------------------

    async def free_memory(self) -> None:
        """With `free_while_training`: release the servers' memory, or stop the launched one that cannot. Else nothing."""
        if not self._free_while_training:
            return
        async with self._door.closed():
            self._freed = True
            for member in self._in():
                if self._launched is None or await member.server.has(MEMORY_SAVER):
                    await member.server.release_memory()
                else:
                    await self._launched.stop()

    async def _awake(self) -> None:
        """The servers are running and hold their memory."""
        launched = self._launched
        if not self._freed and (launched is None or launched.running):
            return
        async with self._waking:
            if self._freed:
                await self._resume()
            if launched is not None and not launched.running:
                start = self._served or self._base
                await launched.start(
                    Served(str(start.path), start.version) if start else Served(self._name, self._name)
                )
                self._served = start

    async def _resume(self) -> None:
        if self._launched is None or self._launched.running:
            for member in self._in():
                await member.server.resume_memory()
        self._freed = False


class SGLangStudent(SGLangModel):
    """The model that is trained: its weights can be replaced."""

    @property
    def weights(self) -> str:
        """The version that speaks; empty as long as no server was given weights, whatever it serves."""
        return self._served.version if self._served is not None else ""

    async def load_weights(self, folder: Path, version: str) -> None:
        """See `meteor_agents.models.LoadsWeights`. The servers read `folder` themselves, so they must see it."""
        checkpoint = await asyncio.to_thread(_checked, folder, version)
        async with self._door.closed():
            if self._launched is not None:
                await self._load_launched(self._launched, checkpoint)
            else:
                if self._freed:
                    await self._resume()
                await self._load_pool(checkpoint)
            self._served = checkpoint

    async def _load_launched(self, launched: LaunchedServer, new: Checkpoint) -> None:
        served = Served(str(new.path), new.version)
        if not launched.running:
            await self._start_with(launched, served)
            return
        if self._freed:
            await self._resume()
        await launched.up()
        try:
            await launched.server.load_weights(new.path, new.version)
        except (UnreachableError, TransientModelError) as died:
            launched.doubt()
            await launched.up()  # again with the weights that it had
            raise RefusedCallError(f"{self._name}: the server did not survive loading {new.version}: {died}") from died
        launched.serves = served

    async def _start_with(self, launched: LaunchedServer, served: Served) -> None:
        before = launched.serves
        self._freed = False
        try:
            await launched.start(served)
        except ServerDown as failed:
            if before is None:
                raise
            await launched.start(before)
            raise RefusedCallError(f"{self._name}: no server starts with {served.version}: {failed}") from failed

    async def _load_pool(self, new: Checkpoint) -> None:
        members = self._in() or list(self._members)
        results = await asyncio.gather(*(_loaded(member, new) for member in members))
        failures = [(member, error) for member, error in zip(members, results, strict=True) if error is not None]
        loaded = [member for member, error in zip(members, results, strict=True) if error is None]
        refusals = [error for _, error in failures if not isinstance(error, UnreachableError)]
        if not loaded and not refusals:  # says nothing about the new weights
            raise ServerDown(
                f"{self._name}: no server to load {new.version} into: {failures[0][1]}. Everything is saved; "
                "when one answers again, the same command goes on"
            )
        if not refusals:
            for member, error in failures:
                self._leave_out(member, str(error))
            return
        old = self._served
        if old is not None:
            for member in loaded:
                if (lost := await _loaded(member, old)) is not None:
                    self._leave_out(member, str(lost))
        raise RefusedCallError(f"{self._name}: {new.version} cannot be loaded: {refusals[0]}") from refusals[0]


class _OtherWeights(TransientModelError):
    """Weights that are not ours spoke."""


class _Door:
    """Calls go through while it is open. Whoever closes it waits until the calls inside have left."""

    def __init__(self) -> None:
        self.closing = asyncio.Lock()
        self._open = asyncio.Event()
        self._open.set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._inside = 0

    @property
    def is_open(self) -> bool:
        return self._open.is_set()

    @asynccontextmanager
    async def through(self) -> AsyncIterator[None]:
        while not self._open.is_set():
            await self._open.wait()
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        async with self.closing:
            self._open.clear()
            try:
                await self._empty.wait()
                yield
            finally:
                self._open.set()


async def _depth(member: Member) -> int | None:
    try:
        waiting = await member.server.waiting()
    except ModelError:
        return None
    if waiting is not None:
        member.others = max(0, waiting - member.in_flight)
    return waiting


async def _loaded(member: Member, checkpoint: Checkpoint) -> ModelError | None:
    try:
        await member.server.load_weights(checkpoint.path, checkpoint.version)
    except ModelError as error:
        return error
    return None


def _checked(folder: Path, version: str) -> Checkpoint:
    """A server may end when it reads a damaged folder, so it is not handed one."""
    if missing := missing_parts(folder):
        raise RefusedCallError(f"{folder} is no complete model: it lacks {', '.join(missing)}")
    if damaged := damaged_weights(folder):
        raise RefusedCallError(f"{folder}: {damaged}")
    return Checkpoint(version=version, path=folder.absolute())
