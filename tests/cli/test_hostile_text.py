"""Text from outside is shown as text: it is no markup, and no command to the terminal."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from meteor_agents.calls.tally import Tally
from meteor_agents.cli.progress import JsonLog, LiveView, PlainLines
from meteor_agents.cli.terminal import PlainConsole, json_text, one_line
from meteor_agents.events import (
    CallFailed,
    CallRetried,
    CallStarted,
    EvaluationFinished,
    Event,
    Note,
    QuestionLate,
    StageFinished,
    StageStarted,
    TrainingNote,
    TrainingProgress,
    UpdateFinished,
)
from tests.cli.test_cli import meteor
from tests.support.terminal import on_terminal

CLIPBOARD = "\x1b]52;c;Y3VybA==\x07"
HOSTILE = {
    "a closing tag of markup": "seen [/INST] seen",
    "any closing tag": "seen [/] seen",
    "a colour of markup": "seen [red]seen",
    "a link of markup": "seen [link=file:///]seen[/link]",
    "the clipboard": f"seen {CLIPBOARD}seen",
    "the title": "seen \x1b]0;root\x07seen",
    "a cleared screen": "seen \x1b[2J\x1b[Hseen",
    "eight-bit control codes": "seen \x9b2J\x9d0;root\x9cseen",
    "a line that overwrites": "seen\rseen",
    "backspaces": "seen\b\b\bseen",
    "text from right to left": "seen \u202eneesseen",
    "a formatting field": "seen {0} %s {task.description} seen",
}
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
TITLE, MARK = "\x1b]0;root\x07", "[/INST] [/] [red]"
NAME = f"{MARK}{TITLE}\x9b2J"


def visible(text: str) -> None:
    """No control character is left but line breaks, and the text can be read."""
    assert not RAW.search(text), ascii(text)
    assert MARK in " ".join(text.split()), ascii(text)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose questions, replies and names all hold markup and escape sequences."""
    folder = tmp_path_factory.mktemp("hostile")
    settings = {
        "name": "hostile",
        "domain": NAME,
        "questions": {"path": "questions.jsonl", "holdout": 0, "gate": 0, "heldout": {NAME: "held.jsonl"}},
        "student": {"backend": "scripted", "model": NAME, "function": "toy:student"},
        "teacher": {"backend": "reference"},
        "judge": {"verifier": "numeric"},
        "refine": {"iterations": 2},
    }
    (folder / "meteor.yaml").write_text(json.dumps(settings))
    (folder / "toy.py").write_text(
        f"def student(messages, sampling):\n    return {NAME!r} + ' Answer: ' + str(len(messages[-1].content) % 2)\n"
    )
    for file, first in (("questions", 0), ("held", 1000)):
        rows = [
            {"id": f"q{i} {NAME}", "title": NAME, "question": f"What is {i} plus {i}? {NAME}", "reference": "0"}
            for i in range(first, first + 3)
        ]
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for command in ("refine", "evaluate"):
        code, said = on_terminal(command, "meteor.yaml", "--no-train", cwd=folder, env={"TERM": "xterm"})
        assert code == 0, said
        assert not re.search("\x1b[\\]P_^]|\x1b\\[[23]J|[\x80-\x9f\x07]", said), ascii(said)
    return folder


@pytest.mark.parametrize(
    "args",
    [
        ["status", "runs/hostile"],
        ["traces", "runs/hostile"],
        ["traces", "runs/hostile", f"q0 {NAME}"],
        ["traces", "runs/hostile", "--json"],
        ["check", "meteor.yaml", "--no-train"],
        ["prompts", "render", "student_attempt", "--config", "meteor.yaml"],
    ],
    ids=lambda args: " ".join(args[:2]) + f" {len(args)}",
)
def test_a_command_shows_hostile_text_on_a_terminal_as_text(project: Path, args: list[str]) -> None:
    code, said = on_terminal(*args, cwd=project, columns=200)
    assert code == 0, said
    visible(said)


@pytest.mark.parametrize(
    "args",
    [
        ["traces", "runs/hostile", NAME],
        ["traces", "runs/hostile", "--stage", NAME],
        ["traces", "runs/hostile", "--outcome", NAME],
        ["status", NAME],
        ["run", NAME.replace("/", "")],
        ["prompts", "show", NAME],
        ["models", "fetch", NAME],
        ["refine", "meteor.yaml", "--set", f"refine.{NAME}=3"],
        ["refine", "meteor.yaml", "--set", f"judge.verifier={json.dumps(NAME)}"],
        ["export", "runs/hostile", "--what", NAME, "--out", "x.jsonl"],
        [NAME],
        ["status", "runs/hostile", f"--{NAME}"],
    ],
    ids=lambda args: " ".join(args[:2]).encode("ascii", "ignore").decode()[:20].replace("\x1b", ""),
)
def test_an_error_message_shows_hostile_text_as_text(project: Path, args: list[str]) -> None:
    code, said = on_terminal(*args, cwd=project)
    assert code == 2, said
    assert "Traceback" not in said
    assert not RAW.search(said), ascii(said)
    assert "[red]" in said


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("live", [True, False], ids=["live view", "plain lines"])
def test_progress_shows_hostile_text_as_text(live: bool, text: str) -> None:
    out = io.StringIO()
    events: list[Event] = [
        StageStarted(text, 3, 0),
        Note(text),
        CallRetried("judge", text, 1.0),
        CallFailed("judge", text, text),
        QuestionLate("refine", text, text),
        TrainingNote(text, text),
        TrainingProgress(text, 1, 2, 1.0, 1e-4, 10.0),
        EvaluationFinished(text, text, text),
        UpdateFinished(text, 1, None, 1.0, False, text),
        StageFinished(text, 1.0, text),
    ]
    tally = Tally()
    tally.on_event(StageStarted(text, 3, 0))
    tally.on_event(CallStarted(text, text))
    if live:
        with LiveView(Console(file=out, force_terminal=True, width=300, color_system=None)) as view:
            for event in [*events, tally.progress()]:
                view.on_event(event)
    else:
        lines = PlainLines(out, lambda: 0.0)
        for event in [*events, tally.progress()]:
            lines.on_event(event)
    said = out.getvalue()
    for own in ("\x1b[2K", "\x1b[1A", "\x1b[?25l", "\x1b[?25h", "\r"):  # what the live view itself sends
        said = said.replace(own, "") if live else said
    assert not RAW.search(said.replace("\n", "")), ascii(said)
    assert one_line(text) in " ".join(said.split())


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_console_prints_strings_titles_headers_and_cells_as_text(text: str) -> None:
    from rich.table import Table

    out = io.StringIO()
    console = PlainConsole(file=out, width=300, force_terminal=True, color_system=None)
    table = Table(title=text)
    table.add_column(text)
    table.add_row(text)
    console.print(text)
    console.print(table)
    said = out.getvalue()
    assert not RAW.search(said), ascii(said)
    assert said.count("[red]seen") == (4 if "[red]" in text else 0)


def test_json_stays_the_same_value_and_holds_no_control_characters() -> None:
    value = {text: [text] for text in [*HOSTILE.values(), "Zoë 数学"]}
    assert json.loads(json_text(value)) == value
    assert not RAW.search(json_text(value))
    assert "Zoë 数学" in json_text(value)


def test_the_log_is_safe_to_print_and_holds_the_text_as_it_was(tmp_path: Path) -> None:
    with JsonLog(tmp_path / "log.jsonl") as log:
        for text in HOSTILE.values():
            log.on_event(Note(text))
    content = (tmp_path / "log.jsonl").read_text()
    assert not RAW.search(content)
    assert [json.loads(line)["text"] for line in content.splitlines()] == list(HOSTILE.values())


def test_status_as_json_is_safe_to_print(project: Path) -> None:
    done = meteor("status", "runs/hostile", "--json", cwd=project)
    assert not RAW.search(done.stdout)
    assert NAME in {name for held in json.loads(done.stdout)["scores"].values() for name in held["heldout"]}
