"""The commands. Each imports what it needs when it runs, so that `meteor --help` answers at once.

Exit codes: 0 done; 1 failed; 2 wrong settings, input or usage; 3 stopped at the budget; 130 interrupted. In the last two
everything is saved, and the same command goes on.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from meteor_agents.errors import BudgetReached, MeteorError, UsageError

app = typer.Typer(
    name="meteor",
    help="Evolve a small student model with a teacher and a judge: distil, refine, self-train, evaluate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
models = typer.Typer(help="Models that this project can fetch.", no_args_is_help=True, rich_markup_mode=None)
prompts = typer.Typer(help="Prompt templates: look, check, copy.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(models, name="models")
app.add_typer(prompts, name="prompts")

Config = Annotated[str, typer.Argument(help="A settings file (YAML), or the name of a preset such as quickstart.")]
RunDir = Annotated[Path | None, typer.Option("--run-dir", help="Where the run lives. Default: runs/<name>.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="key.path=value, over the file. Repeatable.")]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, help="At most so many questions a stage and held-out set.")
]
NoTrain = Annotated[bool, typer.Option("--no-train", help="Conversations only; the student stays as it is.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Move an earlier run in the run directory aside and start over.")]
Run = Annotated[Path, typer.Argument(help="A run directory.")]
PromptsDir = Annotated[Path | None, typer.Option("--dir", help="Your folder of templates, over the built-in ones.")]


def _stage_command(name: str, what: str) -> None:
    """One command a stage: all take the same options."""

    def command(
        config: Config,
        run_dir: RunDir = None,
        set_: Set = None,
        limit: Limit = None,
        no_train: NoTrain = False,
        fresh: Fresh = False,
    ) -> None:
        from meteor_agents.cli.commands.run import RunRequest, run_stage

        run_stage(name, RunRequest(config, run_dir, tuple(set_ or ()), limit, no_train, fresh))

    app.command(name, help=what)(command)


_stage_command("run", "All stages in order, with an evaluation before, after each and at the end. Resumes.")
_stage_command("distill", "Stage 1, conversations: the student writes guidelines, the teacher answers.")


@app.command()
def finetune(
    config: Config,
    run_dir: RunDir = None,
    set_: Set = None,
    limit: Limit = None,
    no_train: NoTrain = False,
    fresh: Fresh = False,
    data: Annotated[
        Path | None,
        typer.Option(help="Train on this file instead (JSONL, JSON or Parquet): messages, or prompt and completion."),
    ] = None,
) -> None:
    """Stage 1, training: fine-tune the student on the teacher's answers, or on rows of your own."""
    from meteor_agents.cli.commands.run import RunRequest, run_stage

    run_stage("finetune", RunRequest(config, run_dir, tuple(set_ or ()), limit, no_train, fresh, data))


_stage_command("refine", "Stage 2: attempts, verdicts and guides; an update for every K accepted traces.")
_stage_command("self-train", "Stage 3: prefer the student's high-FLOPs answers over its low-FLOPs ones.")
_stage_command("evaluate", "Score every checkpoint of the run on the held-out questions.")


@app.command()
def check(config: Config, set_: Set = None) -> None:
    """Check settings, templates, questions, keys and servers, with one tiny call a role."""
    from meteor_agents.cli.commands.check import check_config

    check_config(config, tuple(set_ or ()))


@app.command()
def estimate(
    config: Config,
    run_dir: RunDir = None,
    set_: Set = None,
    limit: Limit = None,
    no_train: NoTrain = False,
    stage: Annotated[
        Literal["run", "distill", "finetune", "refine", "self-train", "evaluate"],
        typer.Option(help="Of which stage command."),
    ] = "run",
) -> None:
    """Say what a run will ask of whom: calls, tokens and money by role, less what its run directory holds already."""
    from meteor_agents.cli.commands.estimate import estimate_config

    estimate_config(config, stage=stage, run_dir=run_dir, overrides=tuple(set_ or ()), limit=limit, no_train=no_train)


@app.command()
def ablate(
    config: Config,
    profiles: Annotated[
        str, typer.Option(help="Profiles of stage 3: paper, best, own (the file's), or a YAML file; with commas.")
    ] = "paper,best",
    seeds: Annotated[int, typer.Option(min=1, help="How often each is run.")] = 3,
    run_dir: RunDir = None,
    set_: Set = None,
    limit: Limit = None,
) -> None:
    """Run several profiles of stage 3 from the run's stage-2 checkpoint, and print them side by side. Resumes."""
    from meteor_agents.cli.commands.ablate import ablate as run_ablation

    run_ablation(config, profiles=profiles, seeds=seeds, run_dir=run_dir, overrides=tuple(set_ or ()), limit=limit)


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="A new folder.")]) -> None:
    """Make a folder with settings, example questions and the prompts, ready to edit."""
    from meteor_agents.cli.commands.init import make_project

    make_project(folder)


@app.command()
def status(run: Run, json_: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> None:
    """Where a run stands."""
    from meteor_agents.cli.commands.status import show_status

    show_status(run, as_json=json_)


@app.command()
def traces(
    run: Run,
    question: Annotated[str | None, typer.Argument(help="A question's id: show its traces in full.")] = None,
    stage: Annotated[str | None, typer.Option(help="Only this stage.")] = None,
    outcome: Annotated[str | None, typer.Option(help="Only accepted, exhausted or failed.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many lines.")] = 50,
) -> None:
    """List a run's traces, or show one question's in full."""
    from meteor_agents.cli.commands.status import show_traces

    show_traces(run, question=question, stage=stage, outcome=outcome, limit=limit)


@app.command()
def replay(
    run: Run,
    question: Annotated[str | None, typer.Argument(help="A question's id: only its conversations.")] = None,
    set_: Set = None,
) -> None:
    """Hold a run's conversations again out of its directory: no model is asked. Exit code 1 where something differs."""
    from meteor_agents.cli.commands.replay import replay_run

    replay_run(run, question, tuple(set_ or ()))


@app.command()
def report(
    run: Run,
    out: Annotated[Path | None, typer.Option(help="The page to write. Default: RUN/report.html.")] = None,
    traces: Annotated[int, typer.Option(min=0, help="At most so many traces in it.")] = 20_000,
) -> None:
    """Write a run as one page of HTML: results, charts, cost, trust, and a browser of its traces."""
    from meteor_agents.cli.commands.report import report_run

    report_run(run, out=out, traces=traces)


@app.command()
def export(
    run: Run,
    what: Annotated[Literal["sft", "preferences", "traces"], typer.Option(help="What to write.")],
    out: Annotated[Path, typer.Option(help="The file to write; it must not exist.")],
    format_: Annotated[Literal["jsonl", "parquet"], typer.Option("--format")] = "jsonl",
    llama_factory: Annotated[
        Literal["alpaca", "sharegpt"] | None,
        typer.Option(help="Also write a file that LLaMA-Factory reads, and its entry in dataset_info.json."),
    ] = None,
) -> None:
    """Write a run's accepted examples, preference pairs or traces as a file."""
    from meteor_agents.cli.commands.export import export_run

    export_run(run, what=what, file_format=format_, out=out, llama_factory=llama_factory)


@models.command("fetch")
def fetch(name: Annotated[str, typer.Argument(help="For example smollm2-135m.")]) -> None:
    """Fetch a model's weights, verify them and convert them once into the cache."""
    from meteor_agents.backends.local.fetching import fetch as fetch_model

    folder = fetch_model(name, say=typer.echo)
    typer.echo(str(folder))


@prompts.command("list")
def prompts_list(dir_: PromptsDir = None) -> None:
    """Every template, what it may use, and which file it comes from."""
    from meteor_agents.cli.commands.prompts import list_prompts

    list_prompts(dir_)


@prompts.command("show")
def prompts_show(name: str, dir_: PromptsDir = None) -> None:
    """A template's text."""
    from meteor_agents.cli.commands.prompts import show_prompt

    show_prompt(name, dir_)


@prompts.command("render")
def prompts_render(
    name: str,
    config: Annotated[str | None, typer.Option(help="Take domain, prompts and the first question from here.")] = None,
    dir_: PromptsDir = None,
) -> None:
    """The messages that a template makes of a question."""
    from meteor_agents.cli.commands.prompts import render_prompt

    render_prompt(name, config, dir_)


@prompts.command("lint")
def prompts_lint(dir_: PromptsDir = None) -> None:
    """Check every template: it parses, its variables are known, it renders."""
    from meteor_agents.cli.commands.prompts import lint_prompts

    lint_prompts(dir_)


@prompts.command("export")
def prompts_export(folder: Annotated[Path, typer.Argument(help="Where to copy the built-in templates.")]) -> None:
    """Copy the built-in templates to a folder, to edit them there."""
    from meteor_agents.cli.commands.prompts import export_prompts

    export_prompts(folder)


def run() -> None:
    """The entry point: `app` with errors as sentences and outcomes as exit codes."""
    try:
        app(standalone_mode=True)
    except MeteorError as error:
        typer.echo(f"meteor: {error}", err=True)
        sys.exit(exit_code(error))
    except (KeyboardInterrupt, asyncio.CancelledError):
        typer.echo("meteor: interrupted; everything received is saved, the same command goes on", err=True)
        sys.exit(130)


def exit_code(error: MeteorError) -> int:
    if isinstance(error, UsageError):
        return 2
    return 3 if isinstance(error, BudgetReached) else 1
