"""What a user's terminal shows while a model in this process works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tiny_model import make_tiny, require_libraries

WARNED = """
import warnings
from meteor_agents.backends.local.quiet import silence_libraries
silence_libraries()
for module in ("torch.nn.modules.module", "transformers", "meteor_agents.cli", "torchlike"):
    warnings.warn_explicit(f"from {module}", FutureWarning, f"{module}.py", 1, module)
"""

ASKED = """
import asyncio, sys
from pathlib import Path
from meteor_agents.backends.local.model import TransformersModel
from meteor_agents.models import ChatMessage, Contrast, SamplingParams

async def main(folder):
    model = TransformersModel(folder, device="cpu", dtype="float32")
    asked = [ChatMessage(role="user", content="why")]
    plain = SamplingParams(temperature=0, max_tokens=3)
    contrast = Contrast(against="itself", folder=folder)
    for changes in ({}, {"temperature": 1.0}, {"beams": 2}, {"contrast": contrast}):
        assert (await model.complete(asked, plain.model_copy(update=changes))).usage.output_tokens
    await model.load_weights(Path(folder), "v2")
    await model.aclose()

asyncio.run(main(sys.argv[1]))
"""


def ran(program: str, *arguments: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", program, *arguments], capture_output=True, text=True, check=False
    )


def test_warnings_of_libraries_are_hidden_and_all_others_shown() -> None:
    require_libraries()
    shown = ran(WARNED)
    assert shown.returncode == 0
    assert [line.rpartition("Warning: from ")[2] for line in shown.stderr.splitlines() if "Warning" in line] == [
        "meteor_agents.cli",
        "torchlike",
    ]


def test_a_filter_that_was_set_before_wins() -> None:
    require_libraries()
    assert "FutureWarning: from torch.nn.modules.module" in ran(WARNED, options=("-W", "error::FutureWarning")).stderr


@pytest.mark.slow
def test_a_model_in_this_process_prints_nothing(tmp_path: Path) -> None:
    asked = ran(ASKED, str(make_tiny(tmp_path / "model")))
    assert (asked.returncode, asked.stdout, asked.stderr) == (0, "", "")
