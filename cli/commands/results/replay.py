"""`meteor replay`: re-run a run's conversations from disk, and show what this version would decide differently."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import typer
from rich.table import Table

from meteor_agents.analysis.replay import Held, Replay, totals
from meteor_agents.assembly.config_file import read_config
from meteor_agents.assembly.replaying import Recorded, open_replay, overrides_prompts
from meteor_agents.cli.tables import print_scoreboard
from meteor_agents.cli.terminal import PlainConsole, say
from meteor_agents.errors import UsageError
from meteor_agents.store.inputs import INPUTS
from meteor_agents.store.records import Records, open_for_reading

LISTED = 20
"""How many differences are listed one by one."""


def replay_run(run: Path, question: str | None, overrides: tuple[str, ...]) -> None:
    """Print how many conversations were re-run and what differs. Exits with 1 if anything does. Raises `MeteorError`."""
    if not (run / "run.db").is_file() or not (run / "config.yaml").is_file():
        raise UsageError(f"{run} is not a run directory: a replay needs its run.db, config.yaml and {INPUTS}/")
    settings = read_config(str(run / "config.yaml"), overrides)
    with closing(open_for_reading(run / "run.db")) as records, ExitStack() as stack:
        replay = open_replay(Recorded(run, settings, records, overrides_prompts(overrides)), stack)
        held = asyncio.run(_hold(replay, records, question))
    if not held:
        about = f" about question {question!r}" if question else ""
        raise UsageError(f"{run} holds no conversation{about}; `meteor traces {run}` lists them")
    differing = [one for one in held if one.difference]
    _print(held, differing)
    if differing:
        raise typer.Exit(1)
    if question is None:
        print_scoreboard(run, next_steps=False, console=PlainConsole())


async def _hold(replay: Replay, records: Records, question: str | None) -> list[Held]:
    traces = (trace for trace in records.current_traces() if question in (None, trace.question.id))
    return [*[await replay.hold(trace) for trace in traces], *await replay.evaluations(question)]


def _print(held: Sequence[Held], differing: Sequence[Held]) -> None:
    table = Table(title="re-run from disk", title_justify="left")
    table.add_column("stage")
    for column in ("conversations", "as recorded", "differ", "no reply then"):
        table.add_column(column, justify="right")
    for stage, count, differ, silent in totals(held):
        table.add_row(stage, f"{count:,}", f"{count - differ - silent:,}", f"{differ:,}", f"{silent:,}")
    PlainConsole().print(table)
    for one in differing[:LISTED]:
        say(f"{one.stage}, {one.question_id}: {one.difference}")
    if len(differing) > LISTED:
        say(f"… and {len(differing) - LISTED} more; one question alone: meteor replay RUN QUESTION")
    if not differing:
        say("Everything is as it was recorded. No model was asked.")
