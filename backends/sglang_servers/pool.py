"""Servers that share the work: the least loaded one takes a call, and one that fails is left out until it answers again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from meteor_agents.backends.sglang_servers.checked_weights import CheckedWeights
from meteor_agents.backends.sglang_servers.door import Door
from meteor_agents.backends.sglang_servers.member import FAILURES, Member
from meteor_agents.backends.sglang_servers.server import Patience
from meteor_agents.errors import (
    ModelError,
    RefusedCallError,
    ServerDown,
    TransientModelError,
    UnreachableError,
)
from meteor_agents.models import ChatMessage, Completion, SamplingParams


class OtherWeights(TransientModelError):
    """A server replied with weights that are not ours: another program loaded them, or it was restarted."""


class Pool:
    """Calls to `members`, which all have to answer with the weights `served`, once there are any.

    `note` hears sentences for people. A server is not taken back while `door` is being closed, since new weights are loaded
    then.
    """

    def __init__(
        self,
        name: str,
        members: Sequence[Member],
        door: Door,
        note: Callable[[str], None],
        patience: Patience,
    ) -> None:
        self.members = tuple(members)
        self.served: CheckedWeights | None = None
        self.looks: set[asyncio.Task[None]] = set()
        """Tasks that look after servers that do not answer."""
        self._name = name
        self._door = door
        self._note = note
        self._patience = patience
        self._turn = 0

    def answering(self) -> list[Member]:
        """The servers that are not left out."""
        return [member for member in self.members if not member.out]

    async def find(self) -> ModelError | None:
        """Have every server generate a token. Those that do not are left out; if none does, returns the first error."""
        found = await asyncio.gather(*(self._silence(member) for member in self.members))
        silent = [error for error in found if error is not None]
        return silent[0] if len(silent) == len(self.members) else None

    async def ask(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion:
        """The reply of the least loaded server, or of another when that one fails.

        Raises `TransientModelError` when none replies, and at once when one is late or overloaded: it has too much to do,
        and the others would have as much to do soon.
        """
        tried: list[Member] = []
        failure: TransientModelError | None = None
        while (member := self._least_loaded(tried)) is not None:
            tried.append(member)
            try:
                return self.checked(await member.complete(messages, sampling))
            except (UnreachableError, OtherWeights) as gone:
                self._leave_out(member, str(gone))
                failure = gone
            except TransientModelError as error:
                if error.late and member.failures >= FAILURES:
                    member.failures = 0
                    self._in_background(self._examine(member, str(error)))
                if error.late or error.overload:
                    raise
                if member.failures >= FAILURES:
                    self._leave_out(member, str(error))
                failure = error
        raise failure or UnreachableError(f"{self._name}: none of {len(self.members)} server(s) answers at the moment")

    def checked(self, reply: Completion) -> Completion:
        """The reply, with our version of the weights. Raises `OtherWeights` when the server says that others made it."""
        if self.served is None or reply.weights == self.served.version:
            return reply
        if reply.weights == self._name:  # it does not say; what it serves was read back when it was loaded
            return replace(reply, weights=self.served.version)
        raise OtherWeights(
            f"{self._name}: a server replied with the weights {reply.weights} instead of {self.served.version}; "
            "another program loaded them, or it was restarted"
        )

    async def load(self, new: CheckedWeights) -> None:
        """Load these weights on every server that answers.

        When one refuses them, all go back to the old ones and `RefusedCallError` is raised. Raises `ServerDown` when no
        server can be reached, which says nothing about the weights.
        """
        members = self.answering() or list(self.members)
        results = await asyncio.gather(*(member.load(new.checkpoint) for member in members))
        failures = [(member, error) for member, error in zip(members, results, strict=True) if error is not None]
        loaded = [member for member, error in zip(members, results, strict=True) if error is None]
        refusals = [error for _, error in failures if not isinstance(error, UnreachableError)]
        if not loaded and not refusals:
            raise ServerDown(
                f"{self._name}: no server to load {new.version} into: {failures[0][1]}. Everything is saved; "
                "when one answers again, run the same command to continue"
            )
        if not refusals:
            for member, error in failures:
                self._leave_out(member, str(error))
            return
        old = self.served
        if old is not None:
            for member in loaded:
                if (lost := await member.load(old.checkpoint)) is not None:
                    self._leave_out(member, str(lost))
        raise RefusedCallError(f"{self._name}: {new.version} cannot be loaded: {refusals[0]}") from refusals[0]

    async def queue_depth(self) -> int | None:
        """Requests that wait on all servers together; None when none of them says."""
        depths = await asyncio.gather(*(member.queue_depth() for member in self.answering()))
        known = [depth for depth in depths if depth is not None]
        return sum(known) if known else None

    async def aclose(self) -> None:
        """Stop looking after servers. The connections stay open until each member is closed."""
        for look in self.looks:
            look.cancel()
        if self.looks:
            await asyncio.wait(self.looks)

    def _least_loaded(self, tried: Sequence[Member]) -> Member | None:
        """The member with the least work, or None if all were tried. Equals take turns, so that a first burst is spread."""
        candidates = [member for member in self.answering() if member not in tried]
        if not candidates:
            return None
        self._turn += 1
        least = min(member.work for member in candidates)
        equals = [member for member in candidates if member.work == least]
        return equals[self._turn % len(equals)]

    async def _silence(self, member: Member) -> ModelError | None:
        try:
            await member.server.generate_token()
        except ModelError as silent:
            self._leave_out(member, str(silent))
            return silent
        return None

    async def _examine(self, member: Member, why: str) -> None:
        """Leave the server out if it no longer generates anything. One that is merely slow stays."""
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
        told = ""
        while member.out:
            await asyncio.sleep(pause_s)
            pause_s = min(self._patience.longest_pause_s, pause_s * 2)
            try:
                await member.server.generate_token()
                async with self._door.closing:  # new weights are not being loaded at this moment
                    changed = await self._give_weights(member)
                    member.out = bool(changed)
            except ModelError:
                continue
            if changed and changed != told:
                self._note(f"{member.server.host} answers again but is not taken back: {changed}")
                told = changed
            elif not changed:
                member.failures = 0
                self._note(f"{member.server.host} answers again and is taken back")

    async def _give_weights(self, member: Member) -> str | None:
        """Let a server that was away serve our weights again. Returns in words why it cannot: their files have changed."""
        if self.served is None or await member.server.weights() == self.served.version:
            return None
        if changed := self.served.state.changes():
            return f"{changed}, so they are no longer {self.served.version}"
        await member.server.load_weights(self.served.path, self.served.version)
        return None

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.looks.add(task)
        task.add_done_callback(self.looks.discard)
