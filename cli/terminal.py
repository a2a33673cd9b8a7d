"""Printing text that comes from outside: nothing in it can colour, move, hide or retitle anything on the terminal.

Replies, questions, names, paths and server messages are printed through this module. Control characters are shown as
their codes (`safe_text.printable`), and square brackets are text, never Rich markup.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from meteor_agents.safe_text import printable

_RAW_IN_JSON = re.compile("[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


class PlainConsole(Console):
    """A Rich console that prints every string as it is: no markup, no emoji codes, no control characters.

    This covers printed strings, table titles, headers and cells. A `rich.text.Text` is printed as given: make it with
    `text_of`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """The string as Rich `Text`."""
        return super().render_str(printable(text), **options)


def text_of(text: str) -> Text:
    """One line for a Rich table or view: `one_line` as `Text`."""
    return Text(one_line(text))


def one_line(text: str) -> str:
    """The text on a single line: line breaks and tabs become spaces, control characters their codes.

    >>> one_line("first\\nsecond \\x1b[2J")
    'first second \\\\x1b[2J'
    """
    return " ".join(printable(text).split())


def say(text: str, *, err: bool = False) -> None:
    """Print a line to standard output, or with `err` to standard error. Line breaks in it stay."""
    typer.echo(printable(text), err=err)


def show_file(text: str) -> None:
    """Print a file's text: exactly as it is into a pipe or a file, with control characters as codes on a terminal."""
    typer.echo(printable(text) if sys.stdout.isatty() else text, nl=False)


def json_text(value: Any, *, indent: int | None = None) -> str:
    """The value as JSON that is readable and safe to print: letters as they are, control characters escaped.

    >>> json_text({"name": "\\x9b2J"})
    '{"name": "\\\\u009b2J"}'
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _RAW_IN_JSON.sub(lambda found: f"\\u{ord(found.group()):04x}", text)
