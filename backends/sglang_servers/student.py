"""The model on SGLang that is trained: its weights can be replaced while it stays up."""

from __future__ import annotations

import asyncio
from pathlib import Path

from meteor_agents.backends.sglang_servers.checked_weights import CheckedWeights
from meteor_agents.backends.sglang_servers.launch import LaunchedServer
from meteor_agents.backends.sglang_servers.model import SGLangModel
from meteor_agents.backends.sglang_servers.server_process import Served
from meteor_agents.errors import RefusedCallError, ServerDown, TransientModelError


class SGLangStudent(SGLangModel):
    """A model on SGLang whose weights can be replaced, on all of its servers at once."""

    @property
    def weights(self) -> str:
        """The version that answers; empty as long as no server was given weights, whatever it serves."""
        return self._pool.served.version if self._pool.served is not None else ""

    async def load_weights(self, folder: Path, version: str) -> None:
        """See `meteor_agents.abilities.LoadsWeights`. The servers read `folder` themselves, so they must see it.

        Raises `RefusedCallError` when the folder is damaged or a server refuses it, and `ServerDown` when there is no server
        to load it into.
        """
        new = await asyncio.to_thread(CheckedWeights.of, folder, version)
        async with self._door.closed():
            if self._launched is not None:
                await self._load_launched(self._launched, new)
            else:
                if self._freed:
                    await self._resume()
                await self._pool.load(new)
            self._pool.served = new

    async def _load_launched(self, launched: LaunchedServer, new: CheckedWeights) -> None:
        served = Served.of(new)
        if not launched.running:
            await self._start_with(launched, served)
            return
        if self._freed:
            await self._resume()
        await launched.up()
        try:
            await launched.server.load_weights(new.path, new.version)
        except TransientModelError as died:
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
