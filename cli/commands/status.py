"""`meteor status` and `meteor traces`: look at a run, also while it goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from meteor_agents.analysis.forecast import misses, stored_forecast
from meteor_agents.analysis.status import read_status
from meteor_agents.assembly.estimating import REUSABLE
from meteor_agents.cli.tables import calls_table, print_scoreboard, status_table
from meteor_agents.errors import UsageError
from meteor_agents.messages import Lineage
from meteor_agents.store.call_records import Spent
from meteor_agents.store.records import Records, open_for_reading
from meteor_agents.store.trace_records import TraceRow
from meteor_agents.traces import Outcome


def show_status(run: Path, *, as_json: bool) -> None:
    with closing(_open(run)) as records:
        status = read_status(records)
        spent = records.spent_by_role()
        forecast = stored_forecast(records)
        off = misses(forecast, records) if forecast else []
        reusable = records.meta(REUSABLE, {})
    if as_json:
        typer.echo(json.dumps(status, indent=2, ensure_ascii=False))
        return
    console = Console()
    console.print(status_table(status))
    console.print(calls_table(status))
    if said := money(spent):
        console.print(said, markup=False, highlight=False)
    if reusable:
        found = ", ".join(f"{role} {n:,}" for role, n in reusable.items())
        console.print(f"stored replies that the last command found to reuse: {found}", markup=False, highlight=False)
    if forecast and off:
        console.print(f"used, of what was estimated when `meteor {forecast.command}` began:", markup=False)
        for line in off:
            console.print(f"  {line}", markup=False, highlight=False)
    print_scoreboard(run, next_steps=False, console=console)


def money(spent: Mapping[str, Spent]) -> str | None:
    """What was spent, as far as it is known; None when nothing costs anything."""
    usd = sum(role.usd for role in spent.values())
    unknown = {role: used.unpriced for role, used in spent.items() if used.unpriced}
    if not unknown:
        return f"spent: {usd:.2f} US dollars" if usd else None
    calls = ", ".join(f"{n:,} of the {role}'s calls ({role}.price)" for role, n in unknown.items())
    return f"spent: {f'{usd:.2f} US dollars and ' if usd else ''}an unknown amount: no price is known for {calls}"


def show_traces(run: Path, *, question: str | None, stage: str | None, outcome: str | None, limit: int) -> None:
    if outcome is not None and outcome not in list(Outcome):
        raise UsageError(f"--outcome {outcome}: must be one of {', '.join(Outcome)}")
    conditions = {"question_id": question, "stage": stage, "outcome": outcome}
    given = {column: value for column, value in conditions.items() if value is not None}
    with closing(_open(run)) as records:
        rows = records.find_trace_rows(question_id=question, stage=stage, outcome=outcome, at_most=limit)
    if not rows:
        raise UsageError(f"{run}: no trace fits" + (f" {given}" if given else ""))
    if question is not None:
        for row in rows:
            _print_trace(row)
        return
    table = Table()
    for column in ("stage", "question", "outcome", "tries", "text"):
        table.add_column(column, overflow="ellipsis", no_wrap=True)
    for row in rows:
        text = row.question["question"].replace("\n", " ")
        table.add_row(row.stage, row.question_id, row.outcome, str(row.tries), text)
    Console().print(table)


def _print_trace(row: TraceRow) -> None:
    typer.echo(f"{row.stage} · {row.question_id} · {row.outcome}" + (f" · {row.error}" if row.error else ""))
    typer.echo(f"  question: {row.question['question']}")
    for message in row.messages:
        match message["kind"]:
            case "verdict":
                said = f"{message['status']}: {message['explanation']}"
            case "guide":
                said = message["guide"] or "(none)"
            case "lineage":
                for sentence in Lineage.model_validate(message).sentences():
                    typer.echo(f"  {sentence}")
                continue
            case _:
                said = message["text"]
        speaker = message.get("weights") or message["model"]
        typer.echo(f"  {message['kind']} ({speaker}): {said}")
    typer.echo("")


def _open(run: Path) -> Records:
    if not run.is_dir():
        raise UsageError(f"{run} is not a run directory")
    return open_for_reading(run / "run.db", whole=True)
