"""A project whose student, judge and teacher are `tests.chat_server`, and the command line on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import chdir, closing
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from meteor_agents.cli.app import app, exit_code
from meteor_agents.errors import MeteorError
from meteor_agents.store.records import open_for_reading
from meteor_agents.traces import Trace
from tests.support.chat_server import ChatServer

SETTINGS = """
name: asked
domain: numbers
questions: {{path: questions.jsonl, holdout: 0, gate: 0}}
student: {{backend: openai, model: student, base_url: {url}/v1, sampling: {{max_tokens: 60}}, limits: {{concurrency: 8}}}}
teacher: {{backend: openai, model: teacher, base_url: {url}/v1, limits: {{concurrency: 8}}}}
judge: {{backend: openai, model: judge, base_url: {url}/v1, limits: {{concurrency: 8}}}}
refine: {{iterations: 3, guide_from: teacher}}
"""


class Project:
    """`meteor` on one settings file, as a user has it."""

    def __init__(self, folder: Path, server: ChatServer, questions: int = 40) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "meteor.yaml").write_text(SETTINGS.format(url=server.url))
        self.write_questions(questions)

    def write_questions(self, number: int) -> None:
        rows = [{"id": f"q{i:03d}", "question": f"What is number {i}?"} for i in range(number)]
        (self.folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def command(self, stage: str, *args: str) -> list[str]:
        return [sys.executable, "-m", "meteor_agents.cli", stage, "meteor.yaml", *args]

    def start(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command("refine", "--no-train", *args), cwd=self.folder, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, env=environment(),
        )  # fmt: skip

    def __call__(self, command: str, *args: str, code: int = 0) -> str:
        """What the command printed, on both streams. In this process, which saves most of a second a command."""
        with chdir(self.folder):
            done = CliRunner(env=environment()).invoke(app, [command, *args])
        said, found = done.output, done.exit_code
        if isinstance(done.exception, MeteorError):
            said, found = said + str(done.exception), exit_code(done.exception)
        assert found == code, said + repr(done.exception)
        return said

    def refine(self, *args: str, code: int = 0) -> str:
        return self("refine", "meteor.yaml", "--no-train", *args, code=code)

    @property
    def database(self) -> Path:
        return self.folder / "runs" / "asked" / "run.db"

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("status", "runs/asked", "--json"))
        return found

    def traces(self) -> dict[str, Trace]:
        with closing(open_for_reading(self.database)) as records:
            return {trace.question.id: trace for trace in records.current_traces()}


def environment() -> dict[str, str]:
    return {**os.environ, "COLUMNS": "160"}
