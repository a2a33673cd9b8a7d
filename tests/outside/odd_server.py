"""A chat-completions server whose answers a test decides, and a project that asks it through the real command line."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from meteor_agents.store.records import open_for_reading
from meteor_agents.traces import Trace

RIGHT = "so it is right\nAnswer: right"
CORRECT = json.dumps({"explanation": "as it should be", "status": "correct", "guide": ""})
USAGE = {"prompt_tokens": 10, "completion_tokens": 5}


def completion(text: str, finish: str = "stop", usage: Any = USAGE) -> bytes:
    """A chat completion; without usage where it is None."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return json.dumps({"choices": [choice]} | ({} if usage is None else {"usage": usage})).encode()


GOOD = {"student": completion(RIGHT), "judge": completion(CORRECT), "teacher": completion("Answer: right")}
"""Role -> what a well-behaved server answers."""


@dataclass
class OddServer:
    """`answers`: role -> status and body of each of its calls; a role that is absent is answered well."""

    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    odd_calls: int | None = None
    """How many calls, of all roles in `answers`, are answered so; None: all."""
    asked: Counter[str] = field(default_factory=Counter)
    """Role -> calls."""
    url: str = ""

    @property
    def total(self) -> int:
        """All calls."""
        return self.asked.total()

    @contextmanager
    def running(self) -> Iterator[OddServer]:
        """`url` is the base URL."""
        odd = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                role = body["model"]
                odd.asked[role] += 1
                status, content = (200, GOOD[role]) if odd.odd_calls == 0 else odd.answers.get(role, (200, GOOD[role]))
                if odd.odd_calls and role in odd.answers:
                    odd.odd_calls -= 1
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing is logged."""

        httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        httpd.daemon_threads = True
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.url = f"http://127.0.0.1:{httpd.server_address[1]}/v1"
        try:
            yield self
        finally:
            httpd.shutdown()
            httpd.server_close()
            thread.join()


class Project:
    """`meteor` on a settings file, each command a process of its own. No traceback is ever printed."""

    def __init__(self, folder: Path, server: OddServer, questions: int = 3, **settings: Any) -> None:
        self.folder = folder
        rows = [{"id": f"q{i:03d}", "question": f"What is number {i}?", "reference": "right"} for i in range(questions)]
        (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        limits = {"concurrency": 2, "retries": 0, "timeout_s": 20}
        role = {"backend": "openai", "base_url": server.url, "limits": limits, "price": {"input": 1, "output": 1}}
        written: dict[str, Any] = {
            "name": "odd", "domain": "numbers", "questions": {"path": "questions.jsonl", "holdout": 0, "gate": 0},
            "student": {**role, "model": "student"}, "teacher": {**role, "model": "teacher"},
            "judge": {**role, "model": "judge"},
        }  # fmt: skip
        (folder / "meteor.yaml").write_text(json.dumps(written | settings))

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.folder / "runs" / "odd"

    def meteor(self, *args: str, code: int | tuple[int, ...] = 0) -> str:
        """What the command printed, on both streams."""
        command = [sys.executable, "-m", "meteor_agents.cli", *args]
        done = subprocess.run(
            command, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
        )
        said = done.stdout + done.stderr
        assert "Traceback" not in said, said
        assert done.returncode in (code if isinstance(code, tuple) else (code,)), (done.returncode, said)
        return said

    def refine(self, *args: str, code: int | tuple[int, ...] = 0) -> str:
        """`meteor refine --no-train`."""
        return self.meteor("refine", "meteor.yaml", "--no-train", *args, code=code)

    def status(self) -> dict[str, Any]:
        """`meteor status --json`."""
        found: dict[str, Any] = json.loads(self.meteor("status", "runs/odd", "--json"))
        return found

    def traces(self) -> list[Trace]:
        """The traces that are stored."""
        with closing(open_for_reading(self.run / "run.db")) as records:
            return list(records.current_traces())

    def exported(self, what: str = "sft") -> list[dict[str, Any]]:
        """The rows of an export; none where there is nothing to export."""
        out = self.folder / "out.jsonl"
        out.unlink(missing_ok=True)
        self.meteor("export", "runs/odd", "--what", what, "--out", str(out), code=(0, 1, 2))
        return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
