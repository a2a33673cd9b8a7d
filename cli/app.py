"""The commands: those that work on a run are here, the others are added at the end.

Each imports what it needs when it runs, so that `meteor --help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from meteor_agents.cli.command import command
from meteor_agents.cli.options import Config, Fresh, Limit, NoRetryFailed, NoTrain, RunDir, Set, overrides
from meteor_agents.cli.result_commands import results
from meteor_agents.cli.subcommands import models, prompts
from meteor_agents.errors import BudgetReached, MeteorError, UsageError
from meteor_agents.version import VERSION

app = typer.Typer(
    name="meteor",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"meteor-agents {VERSION}")
        raise typer.Exit


@app.callback()
def meteor(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Evolve a small student model with a teacher and a judge: distil, refine, self-train, evaluate."""


def _stage_command(name: str, text: str, example: str) -> None:
    """Register a stage command. All but `finetune` take the same options."""

    def stage(
        config: Config = "meteor.yaml",
        run_dir: RunDir = None,
        set_: Set = None,
        limit: Limit = None,
        no_train: NoTrain = False,
        no_retry_failed: NoRetryFailed = False,
        fresh: Fresh = False,
    ) -> None:
        from meteor_agents.cli.commands.run import RunRequest, run_stage

        run_stage(name, RunRequest(config, run_dir, overrides(set_, no_retry_failed), limit, no_train, fresh))

    stage.__doc__ = text
    command(app, name, example)(stage)


_stage_command(
    "run",
    "Run all stages, with an evaluation before, after each and at the end.\n\n"
    "Stop it at any point and rerun the command to resume. The first Ctrl-C finishes calls in flight, the second stops "
    "at once.",
    "run quickstart",
)
_stage_command(
    "distill",
    "Stage 1, conversations: the student writes guidelines, the teacher answers.",
    "distill my-project --limit 20",
)


@command(app, "finetune", "finetune my-project --data answers.jsonl")
def finetune(
    config: Config = "meteor.yaml",
    run_dir: RunDir = None,
    set_: Set = None,
    limit: Limit = None,
    no_train: NoTrain = False,
    no_retry_failed: NoRetryFailed = False,
    fresh: Fresh = False,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Train on the rows of this file instead (JSONL, JSON, Parquet): messages, or prompt and completion.",
        ),
    ] = None,
) -> None:
    """Stage 1, training: fine-tune the student on the teacher's answers or your own rows."""
    from meteor_agents.cli.commands.run import RunRequest, run_stage

    given = overrides(set_, no_retry_failed)
    run_stage("finetune", RunRequest(config, run_dir, given, limit, no_train, fresh, data))


_stage_command(
    "refine",
    "Stage 2: attempts, verdicts and guides, with an update after every K accepted traces.",
    "refine my-project --set refine.update_every=20",
)
_stage_command(
    "self-train",
    "Stage 3: train the student to prefer its high-FLOPs answers over its low-FLOPs ones.",
    "self-train my-project",
)
_stage_command(
    "evaluate",
    "Score every checkpoint of the run on the held-out questions.",
    "evaluate my-project --run-dir runs/my-project",
)


@command(app, "check", "check my-project --no-train")
def check(config: Config = "meteor.yaml", set_: Set = None, no_train: NoTrain = False) -> None:
    """Check settings, templates, questions, keys and servers, with one small call per role."""
    from meteor_agents.cli.commands.check import check_config

    check_config(config, overrides(set_), trains=not no_train)


@command(app, "estimate", "estimate my-project --stage refine")
def estimate(
    config: Config = "meteor.yaml",
    run_dir: RunDir = None,
    set_: Set = None,
    limit: Limit = None,
    no_train: NoTrain = False,
    stage: Annotated[
        Literal["run", "distill", "finetune", "refine", "self-train", "evaluate"],
        typer.Option(help="The stage command to estimate."),
    ] = "run",
) -> None:
    """Estimate calls, tokens and money by role before a run.

    What the run directory already holds is subtracted. No model is asked.
    """
    from meteor_agents.cli.commands.estimate import estimate_config

    estimate_config(config, stage=stage, run_dir=run_dir, overrides=overrides(set_), limit=limit, no_train=no_train)


@command(app, "ablate", "ablate my-project --profiles paper,best --seeds 3")
def ablate(
    config: Config = "meteor.yaml",
    profiles: Annotated[
        str,
        typer.Option(
            metavar="NAMES", help="Profiles of stage 3 with commas: paper, best, own (the file's), or YAML files."
        ),
    ] = "paper,best",
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="How many times to run each profile.")] = 3,
    run_dir: RunDir = None,
    set_: Set = None,
    limit: Limit = None,
) -> None:
    """Compare profiles of stage 3, each run from the run's stage-2 checkpoint. Resumes."""
    from meteor_agents.cli.commands.ablate import ablate as run_ablation

    run_ablation(config, profiles=profiles, seeds=seeds, run_dir=run_dir, overrides=overrides(set_), limit=limit)


@command(app, "init", "init my-project")
def init(folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder.")]) -> None:
    """Create a project folder: settings, example questions and prompts, ready to edit."""
    from meteor_agents.cli.commands.init import make_project

    make_project(folder)


app.registered_commands += results.registered_commands
app.add_typer(models, name="models")
app.add_typer(prompts, name="prompts")


def exit_code(error: MeteorError) -> int:
    """2 for what the user must change, 3 for a budget that is used up, else 1."""
    if isinstance(error, UsageError):
        return 2
    return 3 if isinstance(error, BudgetReached) else 1
