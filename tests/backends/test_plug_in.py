"""The package that docs/backends.md shows, built, installed and used as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs" / "backends.md"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the package is installed in."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    blocks = re.findall(
        r"```\w+\n# (parrot\.py|pyproject\.toml)\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL
    )
    assert {name for name, _ in blocks} == {"parrot.py", "pyproject.toml"}
    for name, content in blocks:
        (source / name).write_text(content)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "--target", target, source],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def use(installed: Path, settings: str) -> str:
    program = f"""
import asyncio, sys
sys.path.insert(0, {str(installed)!r})
from meteor_agents.backends.registry import open_model
from meteor_agents.errors import SettingsError
from meteor_agents.models import ChatMessage, SamplingParams
from meteor_agents.settings import ModelSettings

try:
    model = open_model("judge", ModelSettings.model_validate({settings}))
except SettingsError as error:
    print(error)
else:
    reply = asyncio.run(model.complete([ChatMessage(role="user", content="say")], SamplingParams()))
    print(reply.text, reply.model)
"""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_it_is_short() -> None:
    blocks = re.findall(
        r"```\w+\n# (?:parrot\.py|pyproject\.toml)\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL
    )
    assert len([line for line in "\n".join(blocks).splitlines() if line]) < 30


def test_it_speaks_as_its_settings_say(installed: Path) -> None:
    assert use(installed, '{"backend": "parrot", "model": "polly", "word": "polite"}') == "polite polly"


def test_its_settings_are_checked_like_ours(installed: Path) -> None:
    assert use(installed, '{"backend": "parrot", "model": "polly", "wrod": "polite"}') == (
        "unknown setting 'judge.wrod' for the backend parrot; did you mean 'word'?"
    )
    assert use(installed, '{"backend": "parrot", "word": 3}').startswith("judge.word: Input should be a valid string")
