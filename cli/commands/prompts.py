"""`meteor prompts`: list, show, render, check and copy prompt templates."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.table import Table

from meteor_agents.assembly.config_file import read_config
from meteor_agents.assembly.opening import BUILTIN_PROMPTS, open_templates
from meteor_agents.cli.terminal import PlainConsole, say, show_file
from meteor_agents.data.questions import read_questions
from meteor_agents.errors import TemplateError, UsageError
from meteor_agents.messages import Answer, Attempt, Guide, Guideline, Question, Status, Verdict
from meteor_agents.method.templates import SUFFIX, VARIABLES, Templates
from meteor_agents.traces import Turn


def list_prompts(folder: Path | None) -> None:
    """Print a table of all templates. Raises `TemplateError`."""
    templates = open_templates(folder)
    table = Table()
    for column in ("prompt", "may use", "from", "hash"):
        table.add_column(column, overflow="fold")
    for name, variables in VARIABLES.items():
        source = templates.source(name)
        where = "built in" if source.path.parent == BUILTIN_PROMPTS else str(source.path)
        table.add_row(name, ", ".join(sorted(variables)), where, source.hash[:12])
    PlainConsole().print(table)


def show_prompt(name: str, folder: Path | None) -> None:
    """Print a template's text. Raises `TemplateError` for an unknown name."""
    show_file(open_templates(folder).source(name).text)


def render_prompt(name: str, config: str | None, folder: Path | None) -> None:
    """Print the messages of a template, for the first question of a settings file or for an example."""
    domain, question, folder = _context(config, folder)
    templates = open_templates(folder)
    templates.source(name)
    for message in templates.render(name, **example_variables(name, domain, question)):
        say(f"--- {message.role}\n{message.content}\n")


def lint_prompts(folder: Path | None, config: str | None = None) -> None:
    """Check all templates that a run would use. Raises `TemplateError` with a line for each that would fail."""
    domain, question, folder = _context(config, folder)
    problems = list(_problems(folder, domain, question))
    if problems:
        raise TemplateError("\n".join(problems))
    say(f"{len(VARIABLES)} templates: all parse and render")


def _context(config: str | None, folder: Path | None) -> tuple[str, Question, Path | None]:
    """Domain, question and folder of templates: those of the settings file, if there is one, with `folder` first."""
    if config is None:
        return "mathematics", EXAMPLE, folder
    settings = read_config(config)
    question = read_questions(settings.questions.path, settings.questions.fields)[0]
    return settings.domain, question, folder or settings.prompts.dir


def _problems(folder: Path | None, domain: str, question: Question) -> Iterator[str]:
    """What is wrong with each template. Each file of the folder is tried alone, so one error does not hide another."""
    names = sorted(folder.glob(f"*{SUFFIX}")) if folder is not None and folder.is_dir() else []
    with TemporaryDirectory() as scratch:
        for path in names:
            alone = Path(scratch) / path.name
            try:
                shutil.copyfile(path, alone)
                check_templates(open_templates(Path(scratch)), domain, question)
            except OSError as error:
                yield f"{path}: cannot be read: {error.strerror}"
            except TemplateError as error:
                yield str(error).replace(str(alone), str(path))
            alone.unlink(missing_ok=True)
    if not names:
        try:
            check_templates(open_templates(folder), domain, question)
        except TemplateError as error:
            yield str(error)


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
    say(f"{len(VARIABLES)} templates -> {folder}; use them with prompts: {{dir: {folder.resolve()}}}")


def check_templates(templates: Templates, domain: str, question: Question) -> None:
    """Render every template for this question. Raises `TemplateError` for the first that cannot be rendered."""
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
"""Rendered where no settings file gives a question."""
