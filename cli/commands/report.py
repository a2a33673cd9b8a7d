"""`meteor report`: a run as one page, on demand and at the end of every run."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import typer
import yaml

from meteor_agents.errors import MeteorError, UsageError
from meteor_agents.report import TRACES, chart_library, write_report
from meteor_agents.store.records import open_for_reading
from meteor_agents.store.run_directory import RunDirectory


def report_run(run: Path, *, out: Path | None = None, traces: int) -> None:
    """Write the page; the run may be going on meanwhile. Raises `MeteorError`."""
    if not run.is_dir():
        raise UsageError(f"{run} is not a run directory")
    directory = RunDirectory(run)
    page = out or directory.report
    with closing(open_for_reading(directory.database)) as records:
        name = run.resolve().name
        about = _about(directory.config)
        size = write_report(records, page, name=name, library=chart_library(), about=about, at_most=traces)
    typer.echo(f"report: {page} ({size / 1e6:.1f} MB)")


def report_ended_run(run: Path) -> None:
    """Write the page of a run that has just ended; what is in the way is said, and does not fail the run."""
    try:
        report_run(run, traces=TRACES)
    except MeteorError as error:
        typer.echo(f"report: not written, the run itself is complete: {error}", err=True)


def _about(config: Path) -> dict[str, str]:
    """What the settings say of the run; nothing where they cannot be read."""
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    if not isinstance(content, dict):
        return {}
    roles = {role: _model(content.get(role)) for role in ("student", "teacher", "judge")}
    return {"domain": str(content.get("domain", ""))} | {role: model for role, model in roles.items() if model}


def _model(role: Any) -> str:
    if not isinstance(role, dict):
        return ""
    if role.get("verifier"):
        return f"verifier {role['verifier']}"
    model = str(role.get("model") or role.get("backend") or "").rstrip("/")
    return model.rpartition("/")[2]
