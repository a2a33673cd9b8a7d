"""Ctrl-C and SIGTERM while a run goes on: drain first, stop now if asked again or if time is short."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from meteor_agents.calls.tally import Tally
from meteor_agents.events import Draining, Note, Observer
from meteor_agents.pipeline.engine import Drain

TERM_GRACE_S = 20.0
"""Seconds that draining may take after SIGTERM. Cluster managers send SIGKILL after 30."""


@contextmanager
def draining_on_signals(
    drain: Drain, tally: Tally, observer: Observer, *, grace_s: float = TERM_GRACE_S
) -> Iterator[None]:
    """Handle SIGINT and SIGTERM inside the block, for the current task.

    The first signal asks the run to drain: nothing new begins, calls in flight are finished. The second cancels the task.
    After SIGTERM the task is also cancelled when draining has taken `grace_s` seconds; after Ctrl-C there is no limit.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    timers: list[asyncio.TimerHandle] = []

    def interrupted(terminated: bool) -> None:
        if drain.requested:
            for timer in timers:
                timer.cancel()
            task.cancel()
            return
        drain.request()
        observer.on_event(Draining(tally.in_flight()))
        if terminated:
            timers.append(loop.call_later(grace_s, out_of_time))

    def out_of_time() -> None:
        observer.on_event(Note(f"stopping now: {grace_s:g} s have passed since SIGTERM; nothing received is lost"))
        task.cancel()

    handled = (signal.SIGINT, signal.SIGTERM)
    for signal_ in handled:
        loop.add_signal_handler(signal_, interrupted, signal_ == signal.SIGTERM)
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        for signal_ in handled:
            with suppress(ValueError):
                loop.remove_signal_handler(signal_)
