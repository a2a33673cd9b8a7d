"""`meteor init`: create a project folder to start from."""

from __future__ import annotations

import json
from pathlib import Path

from meteor_agents.cli.commands.prompts import export_prompts
from meteor_agents.cli.terminal import say
from meteor_agents.errors import UsageError

_SETTINGS = """\
# Settings of this run. In this folder, `meteor check` tries everything in here and `meteor run` runs it.
name: {name}
domain: general knowledge            # the name of your field in prompts

questions:
  path: questions.jsonl              # one object a line: question, and if you have them id, title, reference, metadata
  holdout: 2                         # held out to measure with; use 100 or more of your own
  gate: 2                            # set apart to decide whether an update is kept

student:
  backend: transformers
  model: smollm2-135m                # `meteor models fetch smollm2-135m`, or the folder of any instruction-tuned model
  sampling: {{temperature: 0.7, top_p: 0.9, max_tokens: 256}}

teacher:
  backend: reference                 # the references in your questions. A real teacher instead:
  # backend: openai                  # any server with the OpenAI interface
  # model: gpt-4o
  # base_url: https://api.openai.com/v1
  # api_key_env: OPENAI_API_KEY

judge:
  verifier: exact                    # or numeric, choice, sql, your_module:function, or a model as above

prompts: {{dir: prompts}}              # edit the files there
refine: {{iterations: 3, update_every: 4}}
self_train: {{high: {{beam: 4}}}}
training: {{learning_rate: 3.0e-4, lora: {{r: 16}}}}
"""

_QUESTIONS = [
    ("What is the capital of France?", "Paris"),
    ("What is the capital of Japan?", "Tokyo"),
    ("What is the capital of Kenya?", "Nairobi"),
    ("What is the capital of Peru?", "Lima"),
    ("What is the capital of Norway?", "Oslo"),
    ("What is the capital of Egypt?", "Cairo"),
    ("What is the capital of Canada?", "Ottawa"),
    ("What is the capital of Greece?", "Athens"),
    ("What is the capital of Cuba?", "Havana"),
    ("What is the capital of Austria?", "Vienna"),
    ("What is the capital of Thailand?", "Bangkok"),
    ("What is the capital of Portugal?", "Lisbon"),
]


def make_project(folder: Path) -> None:
    """Write meteor.yaml, questions.jsonl and prompts/. Raises `UsageError` for a folder that is not empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not empty; name a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        name = "".join(c if c.isalnum() or c in "._-" else "-" for c in folder.resolve().name) or "run"
        (folder / "meteor.yaml").write_text(_SETTINGS.format(name=name), encoding="utf-8")
        rows = [{"id": f"q{i}", "question": q, "reference": a} for i, (q, a) in enumerate(_QUESTIONS, 1)]
        (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}") from error
    export_prompts(folder / "prompts")
    say(f"made {folder}: edit questions.jsonl and meteor.yaml, then: meteor check {folder}")
