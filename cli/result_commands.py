"""The commands that read a run directory, in the order in which `meteor --help` lists them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from meteor_agents.cli.command import command
from meteor_agents.cli.options import AsJson, Run, Set, overrides

results = typer.Typer()
"""Registers the commands below; `app` lists them among its own."""


@command(results, "status", "status runs/my-project")
def status(run: Run, json_: AsJson = False) -> None:
    """Show where a run stands: stages, calls, money, results and the newest student."""
    from meteor_agents.cli.commands.results.status import show_status

    show_status(run, as_json=json_)


@command(results, "traces", "traces runs/my-project --outcome failed")
def traces(
    run: Run,
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="A question's id: show its traces in full.")
    ] = None,
    stage: Annotated[str | None, typer.Option(metavar="STAGE", help="Only this stage.")] = None,
    outcome: Annotated[
        str | None, typer.Option(metavar="OUTCOME", help="Only accepted, taught, exhausted or failed traces.")
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
    from meteor_agents.cli.commands.results.traces import show_traces

    show_traces(run, question=question, stage=stage, outcome=outcome, limit=limit, as_json=json_)


@command(results, "replay", "replay runs/my-project")
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
    from meteor_agents.cli.commands.results.replay import replay_run

    replay_run(run, question, overrides(set_))


@command(results, "report", "report runs/my-project --out report.html")
def report(
    run: Run,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page to write. Default: RUN/report.html.")
    ] = None,
    traces: Annotated[int, typer.Option(metavar="N", min=0, help="Include at most N traces.")] = 20_000,
) -> None:
    """Write a run as one HTML page: results, charts, costs and a browser of its traces."""
    from meteor_agents.cli.commands.results.report import report_run

    report_run(run, out=out, traces=traces)


@command(results, "export", "export runs/my-project --what sft --out sft.parquet")
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
    from meteor_agents.cli.commands.results.export import export_run

    export_run(run, what=what, file_format=format_, out=out, llama_factory=llama_factory)
