"""`meteor traces`: a run's traces, one line each, or one question's in full. Also while the run goes on."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from meteor_agents.cli.commands.results.status import open_run
from meteor_agents.cli.terminal import PlainConsole, json_text, one_line, say
from meteor_agents.errors import UsageError
from meteor_agents.messages import Lineage
from meteor_agents.nearest import did_you_mean
from meteor_agents.store.records import Records
from meteor_agents.store.trace_records import TraceRow
from meteor_agents.traces import Outcome

LINES = 50
"""Lines on a terminal when no limit is given. Into a pipe, and as JSON, all traces are written."""
_ALL = sys.maxsize


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which traces to show; None means any."""

    question: str | None = None
    stage: str | None = None
    outcome: str | None = None

    def in_words(self) -> str:
        """For example ` of the question 'q1' in the stage refine`."""
        parts = [
            f" of the question {self.question!r}" if self.question is not None else "",
            f" in the stage {self.stage}" if self.stage is not None else "",
            f" with the outcome {self.outcome}" if self.outcome is not None else "",
        ]
        return "".join(parts)

    def rows(self, records: Records, at_most: int) -> list[TraceRow]:
        """The first traces that fit, in the order in which they were finished."""
        return records.find_trace_rows(
            question_id=self.question, stage=self.stage, outcome=self.outcome, at_most=at_most
        )


def show_traces(
    run: Path,
    *,
    question: str | None,
    stage: str | None,
    outcome: str | None,
    limit: int | None = None,
    as_json: bool = False,
) -> None:
    """Print traces: a table on a terminal, tab-separated lines into a pipe, one JSON object a line with `as_json`.

    With `question`, its traces in full. Raises `UsageError` when nothing fits, and `StoreError` for a damaged store.
    """
    if outcome is not None and outcome not in list(Outcome):
        raise UsageError(f"--outcome {outcome}: {did_you_mean(outcome, map(str, Outcome), among='outcomes')}")
    on_terminal = sys.stdout.isatty() and not as_json
    most = limit or (LINES if on_terminal and question is None else _ALL)
    wanted = Wanted(question, stage, outcome)
    with closing(open_run(run)) as records:
        rows = wanted.rows(records, most + 1 if most < _ALL else most)
        if not rows:
            raise UsageError(_nothing(run, wanted, records))
    shown = rows[:most]
    if as_json:
        for row in shown:
            say(json_text(_as_object(row)))
    elif question is not None:
        for row in shown:
            _print_in_full(row)
    elif on_terminal:
        PlainConsole().print(table(shown))
        if len(rows) > most:
            say(f"The first {most}; --limit shows more, --stage and --outcome choose, and a pipe gets all.")
    else:
        for row in shown:
            say("\t".join(map(one_line, _cells(row))))


def table(rows: list[TraceRow]) -> Table:
    """One row a trace. The question's text comes last, and is what is cut when the terminal is narrow."""
    found = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("question", "stage", "outcome", "tries"):
        found.add_column(column, no_wrap=True, overflow="fold")
    found.add_column("text")
    for row in rows:
        *fixed, text = map(one_line, _cells(row))
        found.add_row(*map(Text, fixed), Text(text, no_wrap=True, overflow="ellipsis"))
    return found


def _cells(row: TraceRow) -> tuple[str, ...]:
    return (row.question_id, row.stage, row.outcome, str(row.tries), row.question["question"])


def _as_object(row: TraceRow) -> dict[str, Any]:
    return {
        "question_id": row.question_id,
        "stage": row.stage,
        "outcome": row.outcome,
        "tries": row.tries,
        "error": row.error,
        "question": row.question,
        "messages": row.messages,
    }


def _nothing(run: Path, wanted: Wanted, records: Records) -> str:
    """Why the list is empty: a mistyped question or stage, or nothing there yet."""
    said = f"{run}: there is no trace{wanted.in_words()}"
    everything = records.find_trace_rows(question_id=None, stage=None, outcome=None, at_most=_ALL)
    ids = {row.question_id for row in everything}
    stages = dict.fromkeys(row.stage for row in everything)
    if not everything:
        return f"{said} yet"
    if wanted.stage is not None and wanted.stage not in stages:
        return f"{said}; {did_you_mean(wanted.stage, stages, among='stages')}"
    if wanted.question is not None and wanted.question not in ids:
        near = did_you_mean(wanted.question, ids)
        hint = near if near.startswith("did") else f"{len(ids)} other questions have traces"
        return f"{said}; {hint}; `meteor traces {run}` lists them"
    return f"{said}; `meteor traces {run}` lists all"


def _print_in_full(row: TraceRow) -> None:
    error = f" · {row.error}" if row.error else ""
    say(f"{one_line(row.stage)} · {one_line(row.question_id)} · {row.outcome}{error}")
    say(f"  question: {row.question['question']}")
    for message in row.messages:
        for line in _message_lines(message):
            say(f"  {line}")
    say("")


def _message_lines(message: dict[str, Any]) -> list[str]:
    match message["kind"]:
        case "verdict":
            said = f"{message['status']}: {message['explanation']}"
        case "guide":
            said = message["guide"] or "(none)"
        case "lineage":
            return Lineage.model_validate(message).sentences()
        case _:
            said = message["text"]
    speaker = message.get("weights") or message["model"]
    return [f"{message['kind']} ({one_line(speaker)}): {said}"]
