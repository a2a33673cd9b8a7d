"""`meteor check`: try everything that a run will need, before the run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from rich.table import Table

from meteor_agents.assembly.config_file import read_config
from meteor_agents.assembly.opening import open_templates
from meteor_agents.assembly.question_sets import open_questions, with_overlaps
from meteor_agents.assembly.role_models import check_budget
from meteor_agents.backends.base_model import check_chat, check_trainable, trains_here
from meteor_agents.backends.registry import open_trainer
from meteor_agents.cli.commands.check_roles import Candidate, Finding, look_at
from meteor_agents.cli.commands.prompts import EXAMPLE, check_templates
from meteor_agents.cli.terminal import PlainConsole, say
from meteor_agents.errors import MeteorError, SettingsError, UsageError
from meteor_agents.evaluation.human_labels import read_labels
from meteor_agents.events import Event
from meteor_agents.messages import Question, Status
from meteor_agents.pipeline.session import QuestionSets
from meteor_agents.settings.evaluation import EVALUATED
from meteor_agents.settings.roles import REFERENCE, ROLES, JudgeSettings
from meteor_agents.settings.run import Settings
from meteor_agents.verifiers import open_verifier


def check_config(config: str, overrides: tuple[str, ...], *, trains: bool = True) -> None:
    """Try every part and print a line about each. `trains` is false for `--no-train`: training is not checked then.

    Raises `MeteorError` after all parts have been tried, with the number of problems and the first of them.
    """
    settings = read_config(config, overrides)
    say(f"settings: {settings.name}, valid")
    problems: list[MeteorError] = []
    sets: list[QuestionSets] = []

    def questions() -> str:
        sets.append(with_overlaps(open_questions(settings, limit=None, observer=_Silent()), _Silent()))
        return _described(sets[0])

    def train() -> Sequence[Question]:
        return sets[0].train if sets else ()

    checks: Sequence[Callable[[], str]] = (
        questions,
        lambda: _check_templates(settings, train()),
        lambda: _check_training(settings) if trains else "training: none (--no-train)",
        lambda: _check_budget(settings),
        lambda: _check_verifier(settings, train()),
        lambda: _check_labels(settings),
    )
    for check in checks:
        try:
            say(check())
        except MeteorError as error:
            problems.append(error)
            say(f"PROBLEM: {error}")
    problems += asyncio.run(_check_roles(settings, train(), trains=trains))
    if problems:
        first = next((problem for problem in problems if isinstance(problem, UsageError)), problems[0])
        raise type(first)(f"{len(problems)} problem(s), named above; the first: {first}")


def _described(sets: QuestionSets) -> str:
    held = ", ".join(f"{len(questions)} {name}" for name, questions in sets.heldout.items()) or "none"
    return f"questions: {len(sets.train)} to train on, {len(sets.gate)} for the gate; held out: {held}{_overlap(sets)}"


def _overlap(sets: QuestionSets) -> str:
    found = sets.overlaps.sets if sets.overlaps else {}
    near = [overlap.sentence(name) for name, overlap in found.items() if overlap.near]
    return "; no overlap" if not near else "".join(f"\n  {sentence}" for sentence in near)


def _check_templates(settings: Settings, questions: Sequence[Question]) -> str:
    check_templates(open_templates(settings.prompts.dir), settings.domain, questions[0] if questions else EXAMPLE)
    return "prompts: all parse and render"


def _check_training(settings: Settings) -> str:
    if not trains_here(settings.student):
        return f"training: none; a student of the backend {settings.student.backend} cannot be trained here (use --no-train)"
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


def _check_verifier(settings: Settings, questions: Sequence[Question]) -> str:
    if settings.judge.verifier is None:
        return f"judge: a model, {settings.judge.identity}"
    verifier = open_verifier(settings.judge.verifier, settings.judge.options, settings.base)
    try:
        known = [question for question in questions if question.reference is not None][:20]
        verdicts = [(question, verifier.verify(question, question.reference or "")) for question in known]
    finally:
        verifier.close()
    for question, verdict in verdicts:
        if verdict.status is not Status.CORRECT:
            said = "gives no verdict on" if verdict.status is Status.ERROR else "does not accept"
            raise MeteorError(
                f"judge: the verifier {verifier.name} {said} the reference of question {question.id!r}: "
                f"{verdict.explanation}"
            )
    return f"judge: verifier {verifier.name}, accepts {len(known)} of {len(known)} references tried"


def _check_labels(settings: Settings) -> str:
    human = settings.evaluate.human
    return f"people's labels: {len(read_labels(human))}" if human else "people's labels: none"


async def _check_roles(settings: Settings, questions: Sequence[Question], *, trains: bool) -> list[MeteorError]:
    """Print one table of all models: what was found, and what to do where one does not fit. Returns the problems."""
    problems: list[MeteorError] = []
    table = Table(title="models", title_justify="left")
    for column in ("role", "", "found"):
        table.add_column(column, overflow="fold")
    for model in _models(settings):
        try:
            findings = await _found(model, settings, questions, trains)
        except MeteorError as error:
            problems.append(error)
            findings = [Finding("PROBLEM", str(error))]
        for finding in findings:
            table.add_row(model.name, finding.what, finding.found)
            if finding.advice:
                problems.append(SettingsError(f"{model.name}, {finding.what}: {finding.found}. {finding.advice}"))
                table.add_row("", "PROBLEM", finding.advice)
        table.add_section()
    PlainConsole().print(table)
    return problems


def _models(settings: Settings) -> list[Candidate]:
    """Every model that the run asks, with those that only evaluate or are evaluated."""
    return [
        *(Candidate(role, role, getattr(settings, role)) for role in ROLES),
        *(Candidate(f"evaluate.judges {judge.identity}", "judge", judge) for judge in settings.evaluate.judges),
        *(Candidate(f"evaluate.models {model.name}", EVALUATED, model) for model in settings.evaluate.models),
    ]


async def _found(
    model: Candidate, settings: Settings, questions: Sequence[Question], trains: bool
) -> list[Finding]:
    given = model.settings
    if model.role == "teacher" and given.backend == REFERENCE:
        return [Finding("answers", "with the references of the data")]
    if isinstance(given, JudgeSettings) and given.verifier is not None:
        return [Finding("judges", f"by the verifier {given.verifier}")]
    return await look_at(model, settings, open_templates(settings.prompts.dir), questions or (EXAMPLE,), trains=trains)


class _Silent:
    def on_event(self, event: Event) -> None:
        return None
