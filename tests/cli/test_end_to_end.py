"""All three stages for real: a tiny random model in transformers, trained by DeepSpeed under its launcher, from the
command line. The judge is a function, since a random model is never right."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("deepspeed", reason="needs the packages of the extra [train]")

from tests.support.tiny_model import make_tiny

SETTINGS = """
name: tiny
domain: tests
questions: {path: questions.jsonl, holdout: 4, gate: 3}
student:
  backend: transformers
  model: model
  sampling: {temperature: 1.0, top_p: 1.0, max_tokens: 12}
  limits: {concurrency: 8}
teacher: {backend: reference}
judge: {verifier: "lenient:lenient"}
distill: {questions: 12, training: {epochs: 40, learning_rate: 5.0e-3}}  # learns to stop: what is cut is not trained on
refine: {iterations: 3, update_every: 6, questions: 9}
self_train: {questions: 6, high: {beam: 3}}
training: {learning_rate: 1.0e-3, epochs: 1, batch_size: 4, max_length: 256}
"""

JUDGE = """
def lenient(question, answer):
    return True if len(answer) % 3 else f"{len(answer)} characters are a multiple of three"
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    make_tiny(folder / "model")
    (folder / "meteor.yaml").write_text(SETTINGS)
    (folder / "lenient.py").write_text(JUDGE)
    rows = [{"question": f"Which number comes after {i}?", "reference": str(i + 1)} for i in range(30)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "meteor_agents.cli", *args]


def meteor(project: Path, *args: str) -> str:
    done = subprocess.run(
        command(*args), cwd=project, capture_output=True, text=True, timeout=900, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_run_killed_in_training_is_finished_by_the_same_command_and_repeats_no_call(project: Path) -> None:
    killed = subprocess.Popen(
        command("run", "meteor.yaml"), cwd=project, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert killed.stdout is not None
    for line in killed.stdout:
        if line.startswith("finetune: started"):
            break
    else:
        pytest.fail("the run ended before it trained")
    time.sleep(3)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    before = json.loads(meteor(project, "status", "runs/tiny", "--json"))

    table = meteor(project, "run", "meteor.yaml")
    status = json.loads(meteor(project, "status", "runs/tiny", "--json"))
    assert {stage["state"] for stage in status["stages"].values()} == {"done"}
    assert status["calls"]["student"]["made"] >= before["calls"]["student"]["made"]
    assert status["stages"]["distill"]["accepted"] == 12
    assert [r["stage"] for r in status["rounds"]][:2] == ["finetune", "refine"]
    finetune = status["rounds"][0]
    assert finetune["promoted"], finetune["reason"]
    assert (project / "runs/tiny/checkpoints" / finetune["checkpoint"] / "model.safetensors").is_file()
    assert "after 1 distil" in table
    newest = next(version for version, found in status["scores"].items() if "self-train" in found["labels"])
    assert f"student: runs/tiny/checkpoints/{newest}" in table

    made = status["calls"]["student"]["made"]
    again = meteor(project, "run", "meteor.yaml")
    status = json.loads(meteor(project, "status", "runs/tiny", "--json"))
    assert status["calls"]["student"]["made"] == made
    assert "started 1 process" not in again


@pytest.mark.slow
def test_later_messages_carry_the_weights_that_spoke_them(project: Path) -> None:
    rows = meteor(project, "export", "runs/tiny", "--what", "traces", "--out", "traces.jsonl")
    assert "rows ->" in rows
    traces = [json.loads(line) for line in (project / "traces.jsonl").read_text().splitlines()]
    speakers = {
        t["stage"]: {m["weights"] for m in t["messages"] if m["kind"] in ("guideline", "attempt")} for t in traces
    }
    assert all(weights.startswith("base-") for weights in speakers["distill"])
    assert any(weights.startswith("finetune-") for weights in speakers["refine"])
    assert not any(weights.startswith("base-") for weights in speakers["refine"])


@pytest.mark.slow
def test_a_checkpoint_is_a_complete_model_folder(project: Path) -> None:
    import transformers

    (folder,) = (project / "runs/tiny/checkpoints").glob("finetune-*[0-9a-f]")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert model.generation_config.eos_token_id is not None
    assert tokenizer.chat_template
    leftovers = [path.name for path in folder.parent.iterdir() if path.name.startswith(".")]
    assert leftovers == []
