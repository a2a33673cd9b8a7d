"""`meteor check`: everything that a run will need, tried before it is needed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import typer

from meteor_agents.backends.reference import NAME as REFERENCE
from meteor_agents.backends.registry import check_chat, check_trainable, open_trainer, trains_here
from meteor_agents.cli.assembly import (
    check_budget,
    make_ready,
    open_judge_verifier,
    open_questions,
    open_role,
    open_templates,
)
from meteor_agents.cli.config_file import read_config
from meteor_agents.cli.prompting import EXAMPLE, check_templates
from meteor_agents.errors import MeteorError, ModelError
from meteor_agents.events import Event
from meteor_agents.messages import Question, Status
from meteor_agents.models import ChatMessage
from meteor_agents.pipeline import QuestionSets
from meteor_agents.settings import ModelSettings, Settings


def check_config(config: str, overrides: tuple[str, ...]) -> None:
    """Print one line a part; raise the first error after all parts have been tried."""
    settings, base = read_config(config, overrides)
    typer.echo(f"settings: {settings.name}, valid")
    problems: list[MeteorError] = []
    sets: list[QuestionSets] = []

    def questions() -> str:
        sets.append(open_questions(settings, limit=None, observer=_Silent()))
        return _described(sets[0])

    def train() -> Sequence[Question]:
        return sets[0].train if sets else ()

    checks: Sequence[Callable[[], str]] = (
        questions,
        lambda: _check_templates(settings, train()),
        lambda: _check_training(settings),
        lambda: _check_budget(settings),
        lambda: _check_verifier(settings, base, train()),
    )
    for check in checks:
        try:
            typer.echo(check())
        except MeteorError as error:
            problems.append(error)
            typer.echo(f"PROBLEM: {error}")
    problems += asyncio.run(_check_roles(settings))
    if problems:
        raise type(problems[0])(f"{len(problems)} problem(s), named above; the first: {problems[0]}")


def _described(sets: QuestionSets) -> str:
    held = ", ".join(f"{len(questions)} {name}" for name, questions in sets.heldout.items()) or "none"
    return f"questions: {len(sets.train)} to train on, {len(sets.gate)} for the gate; held out: {held}; no overlap"


def _check_templates(settings: Settings, questions: Sequence[Question]) -> str:
    check_templates(open_templates(settings.prompts.dir), settings.domain, questions[0] if questions else EXAMPLE)
    return "prompts: all parse and render"


def _check_training(settings: Settings) -> str:
    if not trains_here(settings.student):
        return f"training: none; a student of the backend {settings.student.backend} only converses (--no-train)"
    check_trainable(settings.student)
    if settings.refine.in_one_chat:
        check_chat(settings.student)
    open_trainer(settings)
    return f"training: {settings.training.backend} is installed, its configuration and the student's folder can be used"


def _check_budget(settings: Settings) -> str:
    check_budget(settings)
    limits = {"US dollars": settings.budget.usd, "tokens": settings.budget.tokens}
    given = [f"{limit:g} {unit}" for unit, limit in limits.items() if limit is not None]
    return f"budget: {' and '.join(given) or 'none'}"


def _check_verifier(settings: Settings, base: Path, questions: Sequence[Question]) -> str:
    if settings.judge.verifier is None:
        return f"judge: a model, {settings.judge.identity}"
    verifier = open_judge_verifier(settings, base)
    try:
        known = [question for question in questions if question.reference is not None][:20]
        wrong = [q.id for q in known if verifier.verify(q, q.reference or "").status is not Status.CORRECT]
    finally:
        verifier.close()
    if wrong:
        raise MeteorError(f"judge: the verifier {verifier.name} does not accept the reference of question {wrong[0]!r}")
    return f"judge: verifier {verifier.name}, accepts {len(known)} of {len(known)} references tried"


async def _check_roles(settings: Settings) -> list[MeteorError]:
    problems: list[MeteorError] = []
    roles: list[tuple[str, ModelSettings]] = [("student", settings.student)]
    if settings.teacher.backend == REFERENCE:
        typer.echo("teacher: the reference answers of the data")
    else:
        roles.append(("teacher", settings.teacher))
    if settings.judge.verifier is None:
        roles.append(("judge", settings.judge))
    for role, model_settings in roles:
        try:
            typer.echo(await _call_once(role, model_settings))
        except MeteorError as error:
            problems.append(error)
            typer.echo(f"PROBLEM: {role}: {error}")
    return problems


async def _call_once(role: str, settings: ModelSettings) -> str:
    once = settings.model_copy(update={"limits": settings.limits.model_copy(update={"retries": 0})})
    sampling = settings.sampling.model_copy(update={"max_tokens": 8})
    async with AsyncExitStack() as closing:
        model = open_role(role, once, _Silent())
        closing.push_async_callback(model.aclose)
        await make_ready(model)
        started = time.monotonic()
        try:
            reply = await model.complete([ChatMessage(role="user", content="Say hello.")], sampling)
        except ModelError as error:
            raise type(error)(f"{settings.identity} gave no reply: {error}") from error
        return f"{role}: {reply.model} answers through {settings.backend} in {time.monotonic() - started:.2f} s"


class _Silent:
    def on_event(self, event: Event) -> None:
        return None
