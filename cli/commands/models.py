"""`meteor models`: the models that are on this machine, fetching them and removing them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from meteor_agents.backends.local.catalog import CATALOG, cache_root, gguf_file, how_to_fetch, resolve
from meteor_agents.backends.local.fetching.costs import size
from meteor_agents.backends.local.fetching.fetch import fetch
from meteor_agents.backends.local.fetching.fetched_models import FetchedModel, alone, listed_models, remove
from meteor_agents.backends.local.fetching.watching import Unwatched, Watch
from meteor_agents.cli.terminal import PlainConsole, one_line, say, text_of
from meteor_agents.errors import UsageError
from meteor_agents.nearest import did_you_mean


def fetch_model(name: str, revision: str | None = None, only_gguf: bool = False) -> None:
    """Fetch a model into the cache and print its path last. Raises `UsageError` when it cannot be had."""
    with _watching() as watch:
        path = fetch(name, watch=watch, revision=revision, only_gguf=only_gguf)
    say(str(path))


def list_models() -> None:
    """Print each known model and each fetched one: a table on a terminal, tab-separated lines into a pipe."""
    models = listed_models()
    console = PlainConsole()
    if not console.is_terminal:
        for model in models:
            revision, licence = model.origin.revision, model.origin.licence
            say("\t".join((model.name, _state(model), licence, model.origin.source, revision, _where(model))))
        return
    table = Table("name", "here", "licence", "source", "revision", box=None, pad_edge=False)
    for model in models:
        revision = model.origin.revision.removeprefix("sha256:")[:12]
        cells = (model.name, _state(model), model.origin.licence, model.origin.source, revision)
        table.add_row(*(text_of(cell) for cell in cells))
    console.print(table)
    say(f"kept in {cache_root()}; meteor models fetch NAME brings one, meteor models path NAME prints its folder")


def print_path(name: str, gguf: bool = False) -> None:
    """Print the folder of a fetched model, or its GGUF file, and nothing else. Raises `UsageError` if it is not here."""
    path = _gguf(name) if gguf else resolve(name)
    if path is None:
        command = how_to_fetch(name)
        if command is None:
            raise UsageError(f"no model is known as {name!r}; {did_you_mean(name, CATALOG)}")
        raise UsageError(f"{name} is not here; fetch it: {command}{' --gguf' if gguf else ''}")
    say(str(path))


def remove_model(name: str, yes: bool = False) -> None:
    """Delete what was fetched of a model, after asking. Raises `UsageError` if nothing is here or nobody can be asked."""
    found = next((model for model in listed_models() if model.name == name), None)
    if found is None or not (found.bytes or found.folder):
        raise UsageError(f"nothing of {name!r} is here; `meteor models list` shows what is")
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"removing {name} ({size(found.bytes)}) has to be confirmed: add --yes")
        typer.confirm(f"remove {one_line(name)} ({size(found.bytes)})?", abort=True)
    with alone(name, cache_root(), Unwatched()):
        say(f"removed {name}: {size(remove(name))} freed")


def _gguf(name: str) -> Path | None:
    if name not in CATALOG:
        raise UsageError(f"{name} has no GGUF file; the models that have one: {', '.join(CATALOG)}")
    file = gguf_file(name)
    return file if file.is_file() else None


def _state(model: FetchedModel) -> str:
    if model.folder:
        return size(model.bytes)
    if model.gguf:
        return f"GGUF only, {size(model.bytes)}"
    return f"begun, {size(model.bytes)}" if model.bytes else "not here"


def _where(model: FetchedModel) -> str:
    return str(model.folder or how_to_fetch(model.name))


@contextmanager
def _watching() -> Iterator[Watch]:
    """Bars on a terminal, plain lines elsewhere."""
    console = PlainConsole(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        yield _Bars(bars)


class _Lines:
    """Says each step, and each tenth of a long one."""

    def __init__(self) -> None:
        self._told = ("", 0)

    def say(self, sentence: str) -> None:
        say(sentence, err=True)

    def progress(self, what: str, done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if done and (what, tenth) != self._told:
            self._told = (what, tenth)
            say(f"{what}: {100 * done // max(total, 1)}%", err=True)


class _Bars:
    """Draws one bar for each step."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task: tuple[str, TaskID] | None = None

    def say(self, sentence: str) -> None:
        self._bars.console.print(text_of(sentence), soft_wrap=True)

    def progress(self, what: str, done: int, total: int) -> None:
        if self._task is None or self._task[0] != what:
            if self._task is not None:
                self._bars.remove_task(self._task[1])
            self._task = (what, self._bars.add_task(one_line(what), total=total))
        self._bars.update(self._task[1], completed=done, total=total)
