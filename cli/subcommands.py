"""`meteor models ...` and `meteor prompts ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meteor_agents.cli.command import command
from meteor_agents.cli.options import PromptsConfig, PromptsDir

models = typer.Typer(help="Small models that this project can fetch.", no_args_is_help=True, rich_markup_mode=None)
prompts = typer.Typer(help="List, show, check and copy prompts.", no_args_is_help=True, rich_markup_mode=None)


@command(models, "list", "models list")
def models_list() -> None:
    """List the models that can be fetched, and where those are that have been."""
    from meteor_agents.cli.commands.models import list_models

    list_models()


@command(models, "fetch", "models fetch smollm2-135m")
def models_fetch(name: Annotated[str, typer.Argument(metavar="NAME", help="A name from `models list`.")]) -> None:
    """Fetch a model's weights, verify them and convert them once into the cache."""
    from meteor_agents.cli.commands.models import fetch_model

    fetch_model(name)


@command(prompts, "list", "prompts list --dir my-prompts")
def prompts_list(dir_: PromptsDir = None) -> None:
    """List every template, the variables it may use, and its file."""
    from meteor_agents.cli.commands.prompts import list_prompts

    list_prompts(dir_)


@command(prompts, "show", "prompts show judge_verdict")
def prompts_show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name from `prompts list`.")], dir_: PromptsDir = None
) -> None:
    """Print a template's text."""
    from meteor_agents.cli.commands.prompts import show_prompt

    show_prompt(name, dir_)


@command(prompts, "render", "prompts render student_attempt --config my-project")
def prompts_render(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name from `prompts list`.")],
    config: PromptsConfig = None,
    dir_: PromptsDir = None,
) -> None:
    """Print the messages that a template makes for a question."""
    from meteor_agents.cli.commands.prompts import render_prompt

    render_prompt(name, config, dir_)


@command(prompts, "lint", "prompts lint --config my-project")
def prompts_lint(config: PromptsConfig = None, dir_: PromptsDir = None) -> None:
    """Check every template and name every error: syntax, unknown variables, rendering."""
    from meteor_agents.cli.commands.prompts import lint_prompts

    lint_prompts(dir_, config)


@command(prompts, "export", "prompts export my-prompts")
def prompts_export(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to copy the built-in templates.")],
) -> None:
    """Copy the built-in templates to a folder, to edit them there."""
    from meteor_agents.cli.commands.prompts import export_prompts

    export_prompts(folder)
