"""Reads the tables of docs/verifiers.md, which say what each verifier finds, for the tests that run them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from meteor_agents.messages import Status

PAGE = Path(__file__).resolve().parents[2] / "docs" / "verifiers.md"
VERDICTS = {"correct": Status.CORRECT, "incorrect": Status.INCORRECT, "undecided": Status.ERROR}
ROW = re.compile(r"\| `(?P<reference>.+)` \| `(?P<reply>.*)` \| (?P<verdict>\w+) \| (?P<why>.+) \|")
NUMBERED = re.compile(r"‹U\+([0-9A-F]+)›")


class Row(NamedTuple):
    """One promise: what a verifier finds of a reply."""

    reference: str
    reply: str
    status: Status


def table(heading: str) -> list[Row]:
    """The rows of the table under a heading of the page, with line breaks, bars and numbered characters put in."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    matches = [ROW.fullmatch(line) for line in lines]
    unread = [line for line, match in zip(lines, matches, strict=True) if match is None]
    assert not unread, f"not a row of four cells: {unread}"
    return [
        Row(plain(match["reference"]), plain(match["reply"]), VERDICTS[match["verdict"]]) for match in matches if match
    ]


def plain(cell: str) -> str:
    """What a cell stands for."""
    text = cell.replace("⏎", "\n").replace("\\|", "|")
    return NUMBERED.sub(lambda match: chr(int(match[1], 16)), text)
