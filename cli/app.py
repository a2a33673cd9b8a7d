"""The commands. Each imports what it needs when it runs, so that `meteor --help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from meteor_agents.cli.command import command
from meteor_agents.cli.options import (
    AsJson,
    Config,
    Fresh,
    Limit,
    NoRetryFailed,
    NoTrain,
    Run,
    RunDir,
    Set,
    overrides,
)
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


@command(app, "status", "status runs/my-project")
def status(run: Run, json_: AsJson = False) -> None:
    """Show where a run stands: stages, calls, money, results and the newest student."""
    from meteor_agents.cli.commands.status import show_status

    show_status(run, as_json=json_)


@command(app, "traces", "traces runs/my-project --outcome failed")
def traces(
    run: Run,
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="A question's id: show its traces in full.")
    ] = None,
    stage: Annotated[str | None, typer.Option(metavar="STAGE", help="Only this stage.")] = None,
    outcome: Annotated[
        str | None, typer.Option(metavar="OUTCOME", help="Only accepted, exhausted or failed traces.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Show at most N traces. Default: 50 on a terminal, all into a pipe."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object per line, with all messages.")] = False,
) -> None:
    """List a run's traces, or show one question's traces in full.

    Into a pipe, the list is tab-separated: question, stage, outcome, tries, text.
    """
    from meteor_agents.cli.commands.traces import show_traces

    show_traces(run, question=question, stage=stage, outcome=outcome, limit=limit, as_json=json_)


@command(app, "replay", "replay runs/my-project")
def replay(
    run: Run,
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="A question's id: only its conversations.")
    ] = None,
    set_: Set = None,
) -> None:
    """Re-run a run's conversations from disk and show what this version would decide differently.

    No model is asked. Exit code 1 if anything differs.
    """
    from meteor_agents.cli.commands.replay import replay_run

    replay_run(run, question, overrides(set_))


@command(app, "report", "report runs/my-project --out report.html")
def report(
    run: Run,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page to write. Default: RUN/report.html.")
    ] = None,
    traces: Annotated[int, typer.Option(metavar="N", min=0, help="Include at most N traces.")] = 20_000,
) -> None:
    """Write a run as one HTML page: results, charts, costs and a browser of its traces."""
    from meteor_agents.cli.commands.report import report_run

    report_run(run, out=out, traces=traces)


@command(app, "export", "export runs/my-project --what sft --out sft.parquet")
def export(
    run: Run,
    what: Annotated[Literal["sft", "preferences", "traces"], typer.Option(help="What to write.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write; it must not exist.")],
    format_: Annotated[
        Literal["jsonl", "parquet"] | None,
        typer.Option("--format", help="Default: the format that the file's suffix names, else jsonl."),
    ] = None,
    llama_factory: Annotated[
        Literal["alpaca", "sharegpt"] | None,
        typer.Option(help="Also write a file for LLaMA-Factory, and its entry in dataset_info.json."),
    ] = None,
) -> None:
    """Write a run's accepted examples, preference pairs or traces to a file."""
    from meteor_agents.cli.commands.export import export_run

    export_run(run, what=what, file_format=format_, out=out, llama_factory=llama_factory)


app.add_typer(models, name="models")
app.add_typer(prompts, name="prompts")


def exit_code(error: MeteorError) -> int:
    """2 for what the user must change, 3 for a budget that is used up, else 1."""
    if isinstance(error, UsageError):
        return 2
    return 3 if isinstance(error, BudgetReached) else 1
