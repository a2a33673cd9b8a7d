"""`meteor report`: write a run as one HTML page; every run also does this when it ends."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from meteor_agents.cli.terminal import say
from meteor_agents.errors import MeteorError, UsageError
from meteor_agents.report import TRACES, chart_library, read_about, write_report
from meteor_agents.store.inputs import Inputs
from meteor_agents.store.records import open_for_reading
from meteor_agents.store.run_directory import RunDirectory


def report_run(run: Path, *, out: Path | None = None, traces: int) -> None:
    """Write the page; the run may still be going on. Raises `MeteorError`."""
    if not run.is_dir():
        raise UsageError(f"{run} is not a run directory")
    directory = RunDirectory(run)
    page = out or directory.report
    with closing(open_for_reading(directory.database)) as records:
        size = write_report(
            records,
            page,
            name=run.resolve().name,
            library=chart_library(),
            about=read_about(directory.config),
            questions=Inputs(run).heldout(),
            at_most=traces,
        )
    say(f"report: {page} ({size / 1e6:.1f} MB)")


def report_ended_run(run: Path) -> None:
    """Write the page of a run that has just ended. If that fails, say why; the run itself does not fail."""
    try:
        report_run(run, traces=TRACES)
    except MeteorError as error:
        say(f"report: not written, the run itself is complete: {error}", err=True)
