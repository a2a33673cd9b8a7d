from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from meteor_agents.cli.event_loop import EVENTS_A_TURN, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere asyncio's own loop is used")
SOCKETS = 5 * EVENTS_A_TURN


@pytest.fixture
def readable() -> Iterator[list[socket.socket]]:
    """Sockets that something has arrived at, and more after each byte that is read."""
    with ExitStack() as closing:
        pairs = [socket.socketpair() for _ in range(SOCKETS)]
        for pair in pairs:
            for end in pair:
                closing.enter_context(end)
                end.setblocking(False)
            pair[1].send(b"x" * 100)
        yield [ours for ours, _ in pairs]


def test_new_work_waits_for_a_few_replies_and_not_for_all_that_have_arrived(readable: list[socket.socket]) -> None:
    read_before: list[int] = []

    async def work() -> int:
        loop, read = asyncio.get_running_loop(), 0

        def arrived(ours: socket.socket) -> None:
            nonlocal read
            ours.recv(100)
            read += 1
            loop.remove_reader(ours)

        for ours in readable:
            loop.add_reader(ours, arrived, ours)
        while read < SOCKETS:
            before = read
            await asyncio.sleep(0)
            read_before.append(read - before)
        return read

    assert run(work()) == SOCKETS
    assert max(read_before) == EVENTS_A_TURN


def test_sockets_that_are_always_ready_do_not_keep_others_waiting(readable: list[socket.socket]) -> None:
    reads = dict.fromkeys(readable, 0)

    async def work() -> None:
        loop = asyncio.get_running_loop()

        def arrived(ours: socket.socket) -> None:
            ours.recv(1)
            reads[ours] += 1

        for ours in readable:
            loop.add_reader(ours, arrived, ours)
        for _ in range(50):
            await asyncio.sleep(0)
        for ours in readable:
            loop.remove_reader(ours)

    run(work())
    assert min(reads.values()) >= max(reads.values()) - 1 > 0


def test_a_peer_that_hangs_up_is_heard_of() -> None:
    async def work() -> bytes:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        theirs.close()
        said = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        return said

    assert run(work()) == b""
