"""`meteor status`: where a run stands, also while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from meteor_agents.analysis.estimating.forecast import misses, stored_forecast
from meteor_agents.analysis.status import read_status
from meteor_agents.assembly.estimating import REUSABLE
from meteor_agents.cli.newest_student import how_to_use, newest_student
from meteor_agents.cli.tables import calls_table, print_scoreboard, status_table
from meteor_agents.cli.terminal import PlainConsole, json_text, say
from meteor_agents.errors import UsageError
from meteor_agents.store.call_records import Spent
from meteor_agents.store.records import Records, open_for_reading
from meteor_agents.store.run_directory import RunDirectory

RUNNING = "running"
STOPPED = "stopped"
"""The state of a stage that was begun and not finished, while no process works on the run."""


def show_status(run: Path, *, as_json: bool) -> None:
    """Print stages, calls, money and results; with `as_json` one JSON object.

    Raises `UsageError` for a folder that is no run directory, and `StoreError` for a damaged store.
    """
    with closing(open_run(run)) as records:
        status = with_stopped(read_status(records), in_use=RunDirectory(run).in_use())
        if as_json:
            say(json_text(status, indent=2))
            return
        notes = _notes(records)
        student = newest_student(records, run / "checkpoints")
    console = PlainConsole()
    console.print(status_table(status))
    console.print(calls_table(status))
    for line in [*notes, *(how_to_use(student) if student else ())]:
        say(line)
    print_scoreboard(run, next_steps=False, console=console)


def open_run(run: Path) -> Records:
    """The records of a run directory, checked for damage. Raises `UsageError` and `StoreError`."""
    if not run.is_dir():
        raise UsageError(f"{run} is not a run directory")
    return open_for_reading(run / "run.db", whole=True)


def with_stopped(status: dict[str, Any], *, in_use: bool) -> dict[str, Any]:
    """The status, with `stopped` in the place of `running` when no process works on the run (it was killed)."""
    if in_use:
        return status
    stages = {
        name: {**stage, "state": STOPPED if stage["state"] == RUNNING else stage["state"]}
        for name, stage in status["stages"].items()
    }
    return {**status, "stages": stages}


def money(spent: Mapping[str, Spent]) -> str | None:
    """What was spent, as far as it is known; None when nothing costs anything."""
    usd = sum(role.usd for role in spent.values())
    unknown = {role: used.unpriced for role, used in spent.items() if used.unpriced}
    if not unknown:
        return f"spent: {usd:.2f} US dollars" if usd else None
    calls = ", ".join(f"{n:,} of the {role}'s calls ({role}.price)" for role, n in unknown.items())
    return f"spent: {f'{usd:.2f} US dollars and ' if usd else ''}an unknown amount: no price is known for {calls}"


def _notes(records: Records) -> list[str]:
    """Lines below the tables: money, stored replies that were reused, and how the estimate compares."""
    lines = [said] if (said := money(records.spent_by_role())) else []
    if reusable := records.meta(REUSABLE, {}):
        found = ", ".join(f"{role} {n:,}" for role, n in reusable.items())
        lines.append(f"stored replies that the last command found to reuse: {found}")
    forecast = stored_forecast(records)
    if forecast and (off := misses(forecast, records)):
        lines += [f"used so far, against the estimate when `meteor {forecast.command}` began:"]
        lines += [f"  {line}" for line in off]
    return lines
