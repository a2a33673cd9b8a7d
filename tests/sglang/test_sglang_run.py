"""A whole run on a real SGLang: served by it, trained by DeepSpeed, swapped after each update, killed on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.real_sglang import CPU_FLAGS, sglang_python
from tests.support.tiny_model import make_tiny

SETTINGS = """
name: tiny
domain: tests
questions: {{path: questions.jsonl, holdout: 4, gate: 3}}
student:
  backend: sglang
  model: model
  launch: {{python: "{python}", flags: "{flags}"}}
  sampling: {{temperature: 1.0, top_p: 1.0, max_tokens: 12}}
  limits: {{concurrency: 8}}
teacher: {{backend: reference}}
judge: {{verifier: "lenient:lenient"}}
distill: {{questions: 12, training: {{epochs: 40, learning_rate: 5.0e-3}}}}  # learns to stop: what is cut is not trained on
refine: {{iterations: 3, update_every: 6, questions: 14}}
self_train: {{questions: 6, high: {{sample: 1.0}}}}
training: {{learning_rate: 1.0e-3, epochs: 1, batch_size: 4, max_length: 256}}
"""

JUDGE = """
def lenient(question, answer):
    return True if len(answer) % 3 else f"{len(answer)} characters are a multiple of three"
"""


@pytest.mark.sglang
@pytest.mark.slow
def test_a_run_whose_server_is_killed_finishes_with_every_update_served(tmp_path: Path) -> None:
    python = sglang_python()
    make_tiny(tmp_path / "model")
    (tmp_path / "meteor.yaml").write_text(SETTINGS.format(python=python, flags=CPU_FLAGS))
    (tmp_path / "lenient.py").write_text(JUDGE)
    rows = [{"question": f"Which number comes after {i}?", "reference": str(i + 1)} for i in range(40)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    run = subprocess.Popen(
        [sys.executable, "-m", "meteor_agents.cli", "run", "meteor.yaml"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for_refinement(tmp_path / "runs/tiny/log.jsonl", run)
        (server,) = servers_of(tmp_path)
        os.kill(server, signal.SIGKILL)
        said, _ = run.communicate(timeout=900)
    finally:
        run.kill()
        run.wait()
    assert run.returncode == 0, said
    assert not servers_of(tmp_path)

    status = json.loads(meteor(tmp_path, "status", "runs/tiny", "--json"))
    assert {stage["state"] for stage in status["stages"].values()} == {"done"}
    assert [stage["failed"] for stage in status["stages"].values()] == [0] * len(status["stages"])
    assert status["calls"]["student"]["failed"] == 0
    promoted = [round_["checkpoint"] for round_ in status["rounds"] if round_["promoted"]]
    assert {name.partition("-")[0] for name in promoted} >= {"finetune", "refine"}
    notes = [event["text"] for event in events(tmp_path) if event["event"] == "Note"]
    assert sum("starting an SGLang server" in note for note in notes) == 1
    assert sum("starting it again" in note for note in notes) == 1
    assert sum("answers again" in note for note in notes) == 1

    meteor(tmp_path, "export", "runs/tiny", "--what", "traces", "--out", "traces.jsonl")
    spoken = [json.loads(line) for line in (tmp_path / "traces.jsonl").read_text().splitlines()]
    weights = {
        stage: {m["weights"] for t in spoken if t["stage"] == stage for m in t["messages"] if "weights" in m}
        for stage in ("distill", "refine", "self-train")
    }
    assert all(version.startswith(("base-", "reference")) for version in weights["distill"])
    assert weights["refine"] <= {promoted[0], *(name for name in promoted if name.startswith("refine-"))}
    assert weights["self-train"] == {[name for name in promoted if not name.startswith("self-train")][-1]}


def wait_for_refinement(log: Path, run: subprocess.Popen[str]) -> None:
    """Returns when a question of stage 2 has been answered."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and run.poll() is None:
        if (
            log.is_file()
            and '"refine"' in log.read_text()
            and any(
                event["event"] == "QuestionFinished" and event["stage"] == "refine" for event in events(log.parents[2])
            )
        ):
            return
        time.sleep(0.02)
    pytest.fail(f"stage 2 was not reached: {run.communicate()[0] if run.poll() is not None else 'too slow'}")


def events(project: Path) -> list[dict[str, str]]:
    lines = (project / "runs/tiny/log.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def servers_of(project: Path) -> list[int]:
    """The main process of each SGLang server that serves something of this project."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        serves = b"sglang.launch_server" in command and str(project).encode() in b"".join(command)
        if serves and not any(part.endswith(b"process_watch.py") for part in command):
            found.append(int(process.name))
    return found


def meteor(project: Path, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "meteor_agents.cli", *args], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
