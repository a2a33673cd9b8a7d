"""The command `meteor`: Typer commands, and the only place that turns settings into objects."""

from __future__ import annotations


def main() -> None:
    """Run the command line; every outcome has its exit code (see `meteor_agents.cli.entry`)."""
    from meteor_agents.cli.entry import run

    run()
