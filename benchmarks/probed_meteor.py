"""`meteor`, unchanged but for what is taken out on request, with a probe beside its event loop.

    python benchmarks/probed_meteor.py PROBE.json refine CONFIG --no-train --run-dir DIR
    METEOR_WITHOUT=loop python benchmarks/probed_meteor.py ...      without one of `WITHOUT`

The first argument is a file; the others are those of `meteor`. The file receives, as JSON: CPU seconds before the event loop
began (imports, settings), when it had ended, and in all (the run's page is written in between), seconds of the loop, and how
late a timer of 5 ms fired (50th and 99th percentile and most, in ms).
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

TICK_S = 0.005


def main(out: Path) -> None:
    from meteor_agents.cli import event_loop
    from meteor_agents.cli import main as meteor

    if (part := os.environ.get("METEOR_WITHOUT")) is not None:
        WITHOUT[part]()
    report: dict[str, float] = {}
    run = event_loop.run

    def probed(work: Coroutine[Any, Any, Any]) -> Any:
        return run(_beside(work, report))

    event_loop.run = probed
    try:
        meteor()
    finally:
        report["cpu_s"] = cpu_s()
        out.write_text(json.dumps(report), encoding="utf-8")


async def _beside(work: Coroutine[Any, Any, Any], report: dict[str, float]) -> Any:
    late_ms: list[float] = []

    async def tick() -> None:
        while True:
            due = time.perf_counter() + TICK_S
            await asyncio.sleep(TICK_S)
            late_ms.append((time.perf_counter() - due) * 1000)

    report["start_cpu_s"], started = cpu_s(), time.perf_counter()
    ticking = asyncio.create_task(tick())
    try:
        return await work
    finally:
        ticking.cancel()
        ordered = sorted(late_ms) or [0.0]
        report["loop_s"], report["end_cpu_s"] = time.perf_counter() - started, cpu_s()
        report |= {"lag_p50": ordered[len(ordered) // 2], "lag_p99": ordered[int(len(ordered) * 0.99)]}
        report["lag_most"] = ordered[-1]


def _plain_loop() -> None:
    from meteor_agents.cli import event_loop

    event_loop.open_event_loop = asyncio.new_event_loop


def _default_collection() -> None:
    from meteor_agents.cli.commands import run

    run._collect_rarely = lambda conversations: None


def _waking_all() -> None:
    from meteor_agents.store import writer

    writer.WOKEN_AT_ONCE = 10**9


def _normal_sync() -> None:
    from meteor_agents.store import database

    database.SYNCHRONOUS = "NORMAL"


WITHOUT = {"loop": _plain_loop, "gc": _default_collection, "waking-few": _waking_all, "full-sync": _normal_sync}
"""What docs/design/engine-costs.md weighs, each with what takes it out."""


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    probe = Path(sys.argv.pop(1))
    sys.argv[0] = "meteor"
    main(probe)
