"""`meteor replay`: a run's conversations held again out of its directory alone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from meteor_agents.analysis.replay import Held, Replay, ReplayedSpeaker, totals
from meteor_agents.assembly.config_file import read_config
from meteor_agents.assembly.opening import open_questions, open_templates
from meteor_agents.cli.tables import print_scoreboard
from meteor_agents.errors import QuestionsError, SettingsError, UsageError
from meteor_agents.evaluation.grading import Panel
from meteor_agents.events import Observers
from meteor_agents.messages import Question
from meteor_agents.method.agents import Judge, ModelJudge, ModelTeacher, Student, Teacher, VerifierJudge, Voice
from meteor_agents.method.reference_teacher import NAME as REFERENCE
from meteor_agents.method.reference_teacher import ReferenceTeacher
from meteor_agents.method.templates import Templates
from meteor_agents.settings.roles import ModelSettings
from meteor_agents.settings.run import Settings
from meteor_agents.store.inputs import INPUTS, Inputs
from meteor_agents.store.store import Records, open_for_reading
from meteor_agents.training import Checkpoint
from meteor_agents.verifiers import open_verifier

LISTED = 20
"""Differences that are listed one by one."""


def replay_run(run: Path, question: str | None, overrides: tuple[str, ...]) -> None:
    """Print what was held again and what differs; exits with 1 where something does. Raises `MeteorError`."""
    if not (run / "run.db").is_file() or not (run / "config.yaml").is_file():
        raise UsageError(f"{run} is not a run directory: a replay needs its run.db, config.yaml and {INPUTS}/")
    settings, base = read_config(str(run / "config.yaml"), overrides)
    with closing(open_for_reading(run / "run.db")) as records, ExitStack() as stack:
        replay = _open_replay(run, settings, base, records, overrides, stack)
        held = asyncio.run(_hold(replay, records, question))
    if not held:
        about = f" about question {question!r}" if question else ""
        raise UsageError(f"{run} holds no conversation{about}; `meteor traces {run}` lists them")
    differing = [one for one in held if one.difference]
    _print(held, differing)
    if differing:
        raise typer.Exit(1)
    if question is None:
        print_scoreboard(run, next_steps=False)


async def _hold(replay: Replay, records: Records, question: str | None) -> list[Held]:
    traces = (trace for trace in records.current_traces() if question in (None, trace.question.id))
    return [*[await replay.hold(trace) for trace in traces], *await replay.evaluations(question)]


def _open_replay(
    run: Path, settings: Settings, base: Path, records: Records, overrides: Sequence[str], stack: ExitStack
) -> Replay:
    inputs = Inputs(run)
    templates = _open_templates(inputs, settings, records, overrides)

    def voice(speaker: ReplayedSpeaker, role: ModelSettings) -> Voice:
        return Voice(speaker, templates, settings.domain, role.sampling)

    def recorded(name: str, role: ModelSettings) -> Voice:
        return voice(ReplayedSpeaker(name, role, records), role)

    student = ReplayedSpeaker("student", settings.student, records)
    teacher: Teacher
    if settings.teacher.backend == REFERENCE:
        teacher = ReferenceTeacher()
    else:
        teacher = ModelTeacher(recorded("teacher", settings.teacher))
    judge: Judge
    if settings.judge.verifier:
        judge = _open_verifier_judge(inputs, settings, base, stack)
    else:
        judge = ModelJudge(recorded("judge", settings.judge))
    evaluation = settings.evaluate
    more = {given.identity: ModelJudge(recorded("judge", given)) for given in evaluation.judges}
    panel = Panel.of(judge, settings.judge.identity, more)
    if evaluation.verifier is not None and panel.verifier is None:
        checker = open_verifier(evaluation.verifier.verifier, evaluation.verifier.options, base)
        stack.callback(checker.close)
        panel = replace(panel, verifier=VerifierJudge(checker))
    heldout = inputs.heldout() if inputs.exist else _heldout_of_settings(settings, records)
    pupil = Student(voice(student, settings.student), in_one_chat=settings.refine.in_one_chat)
    untrained = Checkpoint(version=settings.student.identity, path=base / str(settings.student.model))
    return Replay(settings, records, pupil, teacher, judge, student, panel, heldout, untrained)


def _heldout_of_settings(settings: Settings, records: Records) -> Mapping[str, Mapping[str, Question]]:
    """For a run that kept none: its question files, where they still are."""
    try:
        sets = open_questions(settings, limit=None, observer=Observers([]), records=records)
    except QuestionsError as error:
        raise QuestionsError(f"this run kept no copy of its held-out questions. {error}") from error
    return {name: {question.id: question for question in held} for name, held in sets.heldout.items()}


def _open_templates(inputs: Inputs, settings: Settings, records: Records, overrides: Sequence[str]) -> Templates:
    others = any(override.startswith("prompts.dir=") for override in overrides)
    if inputs.exist and not others:
        return open_templates(inputs.prompts)
    templates = open_templates(settings.prompts.dir)
    if not others and templates.hashes() != records.meta("templates"):
        raise UsageError(
            "this run kept no copy of its prompts, and those here are others; name its own: --set prompts.dir=FOLDER"
        )
    return templates


def _open_verifier_judge(inputs: Inputs, settings: Settings, base: Path, stack: ExitStack) -> VerifierJudge:
    assert settings.judge.verifier is not None
    try:
        options = inputs.own_options(settings.judge.options)
        verifier = open_verifier(settings.judge.verifier, options, inputs.files if inputs.exist else base)
    except SettingsError as error:
        raise SettingsError(
            f"a replay judges again with the run's own verifier: {error} Name it: --set judge.OPTION=/its/full/path"
        ) from error
    stack.callback(verifier.close)
    return VerifierJudge(verifier)


def _print(held: Sequence[Held], differing: Sequence[Held]) -> None:
    table = Table(title="held again, out of the store", title_justify="left")
    table.add_column("stage")
    for column in ("conversations", "as recorded", "differ", "no reply then"):
        table.add_column(column, justify="right")
    for stage, count, differ, silent in totals(held):
        table.add_row(stage, f"{count:,}", f"{count - differ - silent:,}", f"{differ:,}", f"{silent:,}")
    Console().print(table)
    for one in differing[:LISTED]:
        typer.echo(f"{one.stage}, {one.question_id}: {one.difference}")
    if len(differing) > LISTED:
        typer.echo(f"… and {len(differing) - LISTED} more; one question alone: meteor replay RUN QUESTION")
    if not differing:
        typer.echo("Everything is as it was recorded. No model was asked.")
