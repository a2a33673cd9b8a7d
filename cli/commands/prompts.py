"""`meteor prompts`: look at templates, check them, copy them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from meteor_agents.assembly.config_file import read_config
from meteor_agents.assembly.opening import BUILTIN_PROMPTS, open_templates
from meteor_agents.data.questions import read_questions
from meteor_agents.errors import UsageError
from meteor_agents.messages import Answer, Attempt, Guide, Guideline, Question, Status, Verdict
from meteor_agents.method.templates import SUFFIX, VARIABLES, Templates
from meteor_agents.traces import Turn


def list_prompts(folder: Path | None) -> None:
    templates = open_templates(folder)
    table = Table()
    for column in ("prompt", "may use", "from", "hash"):
        table.add_column(column, overflow="fold")
    for name, variables in VARIABLES.items():
        source = templates.source(name)
        where = "built in" if source.path.parent == BUILTIN_PROMPTS else str(source.path)
        table.add_row(name, ", ".join(sorted(variables)), where, source.hash[:12])
    Console().print(table)


def show_prompt(name: str, folder: Path | None) -> None:
    typer.echo(open_templates(folder).source(name).text, nl=False)


def render_prompt(name: str, config: str | None, folder: Path | None) -> None:
    """Render with the first question of a settings file, or with an example."""
    domain, question = "mathematics", EXAMPLE
    if config is not None:
        settings = read_config(config)
        domain = settings.domain
        question = read_questions(settings.questions.path, settings.questions.fields)[0]
        folder = folder or settings.prompts.dir
    templates = open_templates(folder)
    templates.source(name)
    for message in templates.render(name, **example_variables(name, domain, question)):
        typer.echo(f"--- {message.role}\n{message.content}\n")


def lint_prompts(folder: Path | None) -> None:
    """Raises `TemplateError` for the first template that would fail in a run."""
    templates = open_templates(folder)
    check_templates(templates, "mathematics", EXAMPLE)
    typer.echo(f"{len(VARIABLES)} templates: all parse and render")


def export_prompts(folder: Path) -> None:
    """Copy every built-in template; existing files are not touched."""
    existing = [folder / f"{name}{SUFFIX}" for name in VARIABLES if (folder / f"{name}{SUFFIX}").exists()]
    if existing:
        raise UsageError(f"{existing[0]} exists already; name an empty folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in VARIABLES:
            shutil.copyfile(BUILTIN_PROMPTS / f"{name}{SUFFIX}", folder / f"{name}{SUFFIX}")
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}") from error
    typer.echo(f"{len(VARIABLES)} templates -> {folder}; use them with prompts: {{dir: {folder.resolve()}}}")


def check_templates(templates: Templates, domain: str, question: Question) -> None:
    for name in VARIABLES:
        templates.render(name, **example_variables(name, domain, question))


def example_variables(name: str, domain: str, question: Question) -> Mapping[str, Any]:
    """A full set of variables for a template, around one question."""
    model, weights = "example", "base"
    attempt = Attempt(
        text="Half of 42.\nAnswer: 20", reasoning="Half of 42.", answer="20", model=model, weights=weights
    )
    verdict = Verdict(
        status=Status.INCORRECT, explanation="Half of 42 is not 20.", guide="Divide again.", model="example"
    )
    guide = Guide(explanation=verdict.explanation, guide=verdict.guide, model=model)
    everything: dict[str, Any] = {
        "domain": domain,
        "question": question,
        "guideline": Guideline(text="Divide by two.", model=model, weights=weights),
        "previous": attempt,
        "attempt": attempt,
        "answer": Answer(text=attempt.text, model=model, weights=weights),
        "first": attempt,
        "second": attempt,
        "critique": verdict.explanation,
        "explanation": verdict.explanation,
        "guide": verdict.guide,
        "turns": (Turn(attempt, verdict, guide),),
    }
    return {variable: everything[variable] for variable in VARIABLES[name]}


EXAMPLE = Question(id="example", title="Halves", question="What is half of 42?", reference="21")
