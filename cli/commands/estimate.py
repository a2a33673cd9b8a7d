"""`meteor estimate`, and the estimate that a run prints when it begins."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from rich.table import Table

from meteor_agents.analysis.estimating.figures import Estimate, RoleEstimate, added
from meteor_agents.assembly.config_file import read_config
from meteor_agents.assembly.estimating import estimate_settings, forecast_run, over_budget
from meteor_agents.cli.terminal import PlainConsole, say
from meteor_agents.pipeline.session import Session
from meteor_agents.settings.run import Settings
from meteor_agents.store.records import Records, open_for_reading
from meteor_agents.store.run_directory import RunDirectory


def estimate_config(
    config: str, *, stage: str, run_dir: Path | None, overrides: tuple[str, ...], limit: int | None, no_train: bool
) -> None:
    """Print the calls, tokens and money that a stage command still needs, by role. No model is asked or loaded, and nothing
    is written."""
    settings = read_config(config, overrides)
    directory = RunDirectory(run_dir or Path("runs") / settings.name)
    with closing(open_for_reading(directory.database) if directory.database.exists() else Records.none()) as records:
        found, trains = estimate_settings(
            stage, settings, records, directory.path, limit=limit, trains=not no_train
        )
        title = f"meteor {stage}" + (f": what is left to do in {directory.path}" if records.spent().calls else "")
        warning = over_budget(settings, found, records)
    PlainConsole().print(_table(found, title))
    for assumption in found.assumptions:
        say(f"- {assumption}")
    if not trains:
        say("- the student is not trained: conversations only")
    if warning:
        say(f"- {warning}")


async def announce(command: str, limit: int | None, session: Session) -> None:
    """Print what the command is going to cost and what it will reuse, and store it for `meteor status`."""
    found = await forecast_run(command, limit, session)
    for line in _lines(found, session.settings, session.store):
        session.note(line)


def _lines(found: Estimate, settings: Settings, records: Records) -> list[str]:
    asked = [f"{name} {_about(role.calls)}" for name, role in found.roles.items() if role.calls]
    reused = [f"{name} {_about(role.reused)}" for name, role in found.roles.items() if role.reused]
    lines = []
    if asked:
        money = "" if not found.usd else f", {found.usd:.2f} US dollars"
        unknown = [name for name, role in found.roles.items() if role.usd is None]
        money += f", the price of the {' and the '.join(unknown)} is not known" if unknown else ""
        lines.append(f"estimate: calls: {', '.join(asked)}; {_about(found.tokens)} tokens{money}")
    if reused:
        lines.append(f"stored replies that will be reused: {', '.join(reused)}")
    if warning := over_budget(settings, found, records):
        lines.append(warning)
    return lines


def _table(found: Estimate, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("role", "calls", "reused", "tokens in", "tokens out", "US dollars"):
        table.add_column(column, justify="left" if column == "role" else "right")
    for name, role in found.roles.items():
        table.add_row(name, *_cells(role))
    if len(found.roles) > 1:
        table.add_section()
        table.add_row("total", *_cells(added(found.roles.values())))
    return table


def _cells(role: RoleEstimate) -> list[str]:
    counts = (role.calls, role.reused, role.input_tokens, role.output_tokens)
    return [*(f"{count:,}" for count in counts), "unknown" if role.usd is None else f"{role.usd:.2f}"]


def _about(count: float) -> str:
    return f"{count:,.0f}" if count < 10_000 else f"{count / 1000:,.0f},000"
