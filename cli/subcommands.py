"""`meteor models ...` and `meteor prompts ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meteor_agents.cli.command import command
from meteor_agents.cli.options import PromptsConfig, PromptsDir

models = typer.Typer(help="List, fetch and remove models on this machine.", no_args_is_help=True, rich_markup_mode=None)
prompts = typer.Typer(help="List, show, check and copy prompts.", no_args_is_help=True, rich_markup_mode=None)


ModelName = Annotated[
    str, typer.Argument(metavar="NAME", help="A name from `models list`, or org/name of the Hugging Face hub.")
]


@command(models, "list", "models list")
def models_list() -> None:
    """List the known models and the fetched ones: size on disk, licence, source, revision.

    Into a pipe, the list is tab-separated, with the folder or the command that fetches it at the end.
    """
    from meteor_agents.cli.commands.models import list_models

    list_models()


@command(models, "fetch", "models fetch qwen2.5-coder-0.5b")
def models_fetch(
    name: ModelName,
    revision: Annotated[
        str | None, typer.Option(metavar="REV", help="A branch, tag or commit on the hub. Default: the main branch.")
    ] = None,
    gguf: Annotated[
        bool, typer.Option("--gguf", help="Only the verified GGUF file, for llama.cpp; nothing is converted.")
    ] = False,
) -> None:
    """Fetch a model into the cache, verified and ready for `model: NAME`. Resumes.

    Says first what it costs in download and disk. A key for the hub is read from the environment variable HF_TOKEN.
    """
    from meteor_agents.cli.commands.models import fetch_model

    fetch_model(name, revision, gguf)


@command(models, "path", "models path qwen2.5-coder-0.5b --gguf")
def models_path(
    name: ModelName, gguf: Annotated[bool, typer.Option("--gguf", help="The GGUF file instead.")] = False
) -> None:
    """Print the folder of a fetched model, and nothing else."""
    from meteor_agents.cli.commands.models import print_path

    print_path(name, gguf)


@command(models, "remove", "models remove qwen2.5-coder-0.5b")
def models_remove(
    name: ModelName, yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False
) -> None:
    """Delete what was fetched of a model."""
    from meteor_agents.cli.commands.models import remove_model

    remove_model(name, yes)


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
