"""`meteor models`: the small models that this project can fetch."""

from __future__ import annotations

from meteor_agents.backends.local.catalog import CATALOG, resolve
from meteor_agents.backends.local.fetching import fetch
from meteor_agents.cli.terminal import say


def fetch_model(name: str) -> None:
    """Fetch a model into the cache and print its folder. Raises `UsageError` when it cannot be had."""
    say(str(fetch(name, say=say)))


def list_models() -> None:
    """Print a line for each model that can be fetched: name, where it comes from, and its folder if it is here."""
    for name, source in CATALOG.items():
        folder = resolve(name)
        where = f"in {folder}" if folder else f"not here yet: meteor models fetch {name}"
        say(f"{name}\t{source.requirement}\t{where}")
