"""Registering a function as a command, with help that is complete and ends with an example."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import typer

Command = Callable[..., None]


def command(parent: typer.Typer, name: str, example: str) -> Callable[[Command], Command]:
    """A decorator that registers a function as the command `name` of `parent`.

    The docstring is the help; its first line is what the list of commands shows. `example` is a command line without
    `meteor`.
    """

    def register(function: Command) -> Command:
        text = inspect.getdoc(function) or ""
        brief = text.partition("\n")[0]
        parent.command(name, help=text, short_help=brief, epilog=f"Example: meteor {example}")(function)
        return function

    return register
