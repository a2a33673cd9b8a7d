"""From settings, or an open run, to an estimate; and the forecast that a run keeps."""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import ExitStack
from pathlib import Path

from meteor_agents.analysis.estimating.estimate import estimate
from meteor_agents.analysis.estimating.figures import Estimate
from meteor_agents.analysis.estimating.forecast import FORECAST, Forecast, stored_forecast
from meteor_agents.analysis.estimating.rehearsed_run import Given
from meteor_agents.assembly.opening import open_free_judges, open_templates, stored_lineage
from meteor_agents.assembly.question_sets import limited, open_questions
from meteor_agents.assembly.role_models import price_of
from meteor_agents.backends.base_model import base_checkpoint, trains_here
from meteor_agents.backends.local.token_counting import local_counter
from meteor_agents.calls.budget import Price
from meteor_agents.evaluation.human_labels import read_labels
from meteor_agents.events import Observers
from meteor_agents.models import TokenCounter
from meteor_agents.pipeline.cast import FreeJudges, role_models
from meteor_agents.pipeline.session import Session
from meteor_agents.settings.roles import ROLES
from meteor_agents.settings.run import Settings
from meteor_agents.store.records import Records
from meteor_agents.store.run_directory import RunDirectory

REUSABLE = "reusable"
"""The store's name for the number of replies that the newest command can reuse, by role."""


def estimate_settings(
    command: str, settings: Settings, records: Records, folder: Path, *, limit: int | None, trains: bool
) -> tuple[Estimate, bool]:
    """The remaining work of a stage command, and whether it trains. No model is called or loaded, nothing is written.

    `records` and `folder` are those of the run directory.
    """
    settings = limited(settings, limit)
    student = base_checkpoint(settings.student)
    with ExitStack() as closing:
        given = Given(
            settings=settings,
            questions=open_questions(settings, limit=limit, observer=Observers(), records=records),
            templates=open_templates(settings.prompts.dir),
            records=records,
            base=student,
            lineage=stored_lineage(records, student, RunDirectory(folder).checkpoints),
            trains=trains and trains_here(settings.student),
            free=open_free_judges(settings, closing),
            prices=_prices(settings),
            counters=_counters(settings),
            labels=read_labels(settings.evaluate.human) if settings.evaluate.human else (),
        )
        return asyncio.run(estimate(command, given)), given.trains


async def forecast_run(command: str, limit: int | None, session: Session) -> Estimate:
    """The estimate for a command that begins. The run stores it; a repeated command keeps the first one."""
    settings, store, cast = session.settings, session.store, session.cast
    given = Given(
        settings=settings,
        questions=session.questions,
        templates=open_templates(settings.prompts.dir),
        records=store,
        base=session.base,
        lineage=session.lineage,
        trains=session.trainer is not None,
        free=FreeJudges(cast.judge if cast.judge.free else None),
        prices=_prices(settings),
        counters=_counters(settings),
        labels=session.labels,
    )
    found = await estimate(command, given)
    await store.set_meta(REUSABLE, {name: role.reused for name, role in found.roles.items() if role.reused})
    of = _asked_for(command, limit, given)
    earlier = stored_forecast(store)
    if earlier is None or earlier.of != of:
        await store.set_meta(FORECAST, Forecast.made(of, command, found, store).model_dump(mode="json"))
    return found


def over_budget(settings: Settings, found: Estimate, records: Records) -> str | None:
    """A warning if the budget is likely to end the command before it is done."""
    spent, budget = records.spent(), settings.budget
    if budget.usd is not None and found.usd is not None and spent.usd + found.usd > budget.usd:
        return f"budget.usd of {budget.usd:g} is likely to end this before it is done; raise it to continue then"
    if budget.tokens is not None and spent.tokens + found.tokens > budget.tokens:
        return f"budget.tokens of {budget.tokens:,} is likely to end this before it is done; raise it to continue then"
    return None


def _asked_for(command: str, limit: int | None, given: Given) -> str:
    """A hash of everything that decides an estimate; limits and budget do not."""
    content = given.settings.model_dump(mode="json", exclude={"budget": True, **{role: {"limits"} for role in ROLES}})
    parts = [command, limit, given.trains, len(given.questions.train), content, given.templates.hashes()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _prices(settings: Settings) -> dict[str, Price | None]:
    return {name: price_of(model.settings) for name, model in role_models(settings).items()}


def _counters(settings: Settings) -> dict[str, TokenCounter]:
    found = {name: local_counter(model.settings) for name, model in role_models(settings).items()}
    return {name: counter for name, counter in found.items() if counter is not None}
