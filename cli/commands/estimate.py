"""`meteor estimate`, and what a run says and keeps of it when it begins."""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import ExitStack
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from meteor_agents.analysis.estimate import Estimate, Given, RoleEstimate, added, estimate, models_of
from meteor_agents.analysis.forecast import FORECAST, Forecast, stored_forecast
from meteor_agents.assembly.config_file import read_config
from meteor_agents.assembly.opening import (
    limited,
    open_judge_verifier,
    open_questions,
    open_templates,
    price_of,
    stored_lineage,
)
from meteor_agents.backends.base_model import base_checkpoint, trains_here
from meteor_agents.backends.local.token_counting import local_counter
from meteor_agents.calls.recorded import Price
from meteor_agents.evaluation.human_labels import read_labels
from meteor_agents.events import Note, Observers
from meteor_agents.method.agents import VerifierJudge
from meteor_agents.method.reference_teacher import NAME as REFERENCE
from meteor_agents.method.reference_teacher import ReferenceTeacher
from meteor_agents.models import TokenCounter
from meteor_agents.pipeline.pipeline import Pipeline
from meteor_agents.settings.roles import ROLES
from meteor_agents.settings.run import Settings
from meteor_agents.store.run_directory import RunDirectory
from meteor_agents.store.store import Records, open_for_reading

REUSABLE = "reusable"
"""The store's name for the replies that the newest command found to reuse, by role."""


def estimate_config(
    config: str, *, stage: str, run_dir: Path | None, overrides: tuple[str, ...], limit: int | None, no_train: bool
) -> None:
    """Print what a stage command would still ask, by role. Nothing is asked, opened for writing or loaded."""
    settings, base = read_config(config, overrides)
    settings = limited(settings, limit)
    directory = RunDirectory(run_dir or Path("runs") / settings.name)
    with ExitStack() as closing:
        records = open_for_reading(directory.database) if directory.database.exists() else Records.none()
        closing.callback(records.close)
        judge = None
        if settings.judge.verifier:
            verifier = open_judge_verifier(settings, base)
            closing.callback(verifier.close)
            judge = VerifierJudge(verifier)
        student = base_checkpoint(settings.student)
        given = Given(
            settings=settings,
            questions=open_questions(settings, limit=limit, observer=Observers(), records=records),
            templates=open_templates(settings.prompts.dir),
            records=records,
            base=student,
            lineage=stored_lineage(records, student, directory.checkpoints),
            trains=not no_train and trains_here(settings.student),
            teacher=ReferenceTeacher() if settings.teacher.backend == REFERENCE else None,
            judge=judge,
            prices=_prices(settings),
            counters=_counters(settings),
            labels=read_labels(settings.evaluate.human) if settings.evaluate.human else (),
        )
        found = asyncio.run(estimate(stage, given))
        title = f"meteor {stage}" + (f": what is left to do in {directory.path}" if records.spent().calls else "")
        warning = _over_budget(settings, found, records)
    console = Console()
    console.print(_table(found, title))
    for assumption in found.assumptions:
        typer.echo(f"- {assumption}")
    if not given.trains:
        typer.echo("- the student is not trained: conversations only")
    if warning:
        typer.echo(f"- {warning}")


async def announce(command: str, limit: int | None, pipeline: Pipeline) -> None:
    """Say and keep what the command is going to cost, and what it will reuse. The first estimate of a command stays."""
    settings, store = pipeline.settings, pipeline.store
    given = Given(
        settings=settings,
        questions=pipeline.questions,
        templates=pipeline.templates,
        records=store,
        base=pipeline.base,
        lineage=pipeline.lineage,
        trains=pipeline.trainer is not None,
        teacher=pipeline.cast.teacher if settings.teacher.backend == REFERENCE else None,
        judge=pipeline.cast.judge if pipeline.cast.judge.free else None,
        prices=_prices(settings),
        counters=_counters(settings),
        labels=pipeline.evaluators.labels if pipeline.evaluators else (),
    )
    found = await estimate(command, given)
    await store.set_meta(REUSABLE, {name: role.reused for name, role in found.roles.items() if role.reused})
    of = _asked_for(command, limit, given)
    earlier = stored_forecast(store)
    if earlier is None or earlier.of != of:
        await store.set_meta(FORECAST, Forecast.made(of, command, found, store).model_dump(mode="json"))
    for line in _lines(found, settings, store):
        pipeline.observer.on_event(Note(line))


def _lines(found: Estimate, settings: Settings, records: Records) -> list[str]:
    asked = [f"{name} {_about(role.calls)}" for name, role in found.roles.items() if role.calls]
    reused = [f"{name} {_about(role.reused)}" for name, role in found.roles.items() if role.reused]
    lines = []
    if asked:
        money = "" if not found.usd else f", {found.usd:.2f} US dollars"
        unknown = [name for name, role in found.roles.items() if role.usd is None]
        money += f", the price of the {' and the '.join(unknown)} is not known" if unknown else ""
        lines.append(f"estimate: calls: {', '.join(asked)}; {_about(found.tokens)} tokens{money}")
    if reused:
        lines.append(f"stored replies that will be reused: {', '.join(reused)}")
    if warning := _over_budget(settings, found, records):
        lines.append(warning)
    return lines


def _over_budget(settings: Settings, found: Estimate, records: Records) -> str | None:
    spent, budget = records.spent(), settings.budget
    if budget.usd is not None and found.usd is not None and spent.usd + found.usd > budget.usd:
        return f"budget.usd of {budget.usd:g} is likely to end this before it is done; it goes on when that is raised"
    if budget.tokens is not None and spent.tokens + found.tokens > budget.tokens:
        return f"budget.tokens of {budget.tokens:,} is likely to end this before it is done; it goes on when that is raised"
    return None


def _table(found: Estimate, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("role", "calls", "reused", "tokens in", "tokens out", "US dollars"):
        table.add_column(column, justify="left" if column == "role" else "right")
    for name, role in found.roles.items():
        table.add_row(name, *_cells(role))
    if len(found.roles) > 1:
        table.add_section()
        table.add_row("total", *_cells(added(found.roles.values())))
    return table


def _cells(role: RoleEstimate) -> list[str]:
    counts = (role.calls, role.reused, role.input_tokens, role.output_tokens)
    return [*(f"{count:,}" for count in counts), "unknown" if role.usd is None else f"{role.usd:.2f}"]


def _about(count: float) -> str:
    return f"{count:,.0f}" if count < 10_000 else f"{count / 1000:,.0f},000"


def _asked_for(command: str, limit: int | None, given: Given) -> str:
    """A hash of what decides an estimate; how fast and how far a run may go is no part of it."""
    content = given.settings.model_dump(mode="json", exclude={"budget": True, **{role: {"limits"} for role in ROLES}})
    parts = [command, limit, given.trains, len(given.questions.train), content, given.templates.hashes()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _prices(settings: Settings) -> dict[str, Price | None]:
    return {name: price_of(model.settings) for name, model in models_of(settings).items()}


def _counters(settings: Settings) -> dict[str, TokenCounter]:
    found = {name: local_counter(model.settings) for name, model in models_of(settings).items()}
    return {name: counter for name, counter in found.items() if counter is not None}
