"""What stored calls are found by: the values here are those of runs that exist, and must not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meteor_agents.settings import Settings, load_settings

SERVER = {
    "base_url": "https://api.example.com/v1",
    "headers": {"X-Team": "a"},
    "headers_env": {"X-Key": "KEY"},
    "api_key_env": "KEY",
    "query": {"api-version": "2024-06-01"},
    "token_limit": "max_completion_tokens",
    "json_schema": False,
}
LAUNCHED = {"launch": {"python": "python", "flags": "--tp 2"}, "while_training": "free", "json_schema": True}
LOCAL = {"device": "cpu", "max_batch": 8, "dtype": "float32", "quantization": {"load_in_8bit": True}}


def settings(**more: Any) -> Settings:
    content = {
        "name": "run",
        "domain": "sums",
        "questions": {"path": "q.jsonl"},
        "student": {"backend": "transformers", "model": "m"},
        "teacher": {"backend": "reference"},
        "judge": {"verifier": "exact"},
    }
    return load_settings({**content, **more}, base=Path("/base"), source="my.yaml")


@pytest.mark.parametrize(
    ("role", "given", "identity", "deciding"),
    [
        ("teacher", {"backend": "reference"}, "reference", {}),
        ("teacher", {"backend": "openai", "model": "gpt-4o", **SERVER}, "gpt-4o", {"json_schema": False}),
        ("judge", {"backend": "anthropic", "model": "c", "headers": {"a": "b"}}, "c", {}),
        ("student", {"backend": "sglang", "model": "served", **LAUNCHED}, "served", {"json_schema": True}),
        ("student", {"backend": "transformers", "model": "m", **LOCAL}, "m",
         {"dtype": "float32", "quantization": {"load_in_8bit": True}}),
        ("judge", {"verifier": "sql", "database": "library.sql"}, "verifier:sql", {"database": "library.sql"}),
        ("judge", {"backend": "scripted", "replies": ["a"]}, "scripted", {"replies": ["a"]}),
        ("teacher", {"backend": "of_another_package", "word": "w", "device": "cpu"}, "of_another_package",
         {"word": "w"}),
    ],
)  # fmt: skip
def test_a_roles_identity_and_the_options_that_decide_replies_stay(
    role: str, given: dict[str, Any], identity: str, deciding: dict[str, Any]
) -> None:
    found = getattr(settings(**{role: given}), role)
    assert found.identity == identity
    assert found.deciding_options == deciding


def test_the_version_of_a_model_that_is_evaluated_beside_the_student_stays() -> None:
    rivals = [
        {"name": "big", "backend": "openai", "model": "gpt-4o", **SERVER},
        {"name": "local", "backend": "transformers", "model": "m", "sampling": {"max_tokens": 64}, **LOCAL},
    ]
    versions = [rival.version for rival in settings(evaluate={"models": rivals}).evaluate.models]
    assert versions == ["big-2e26b803", "local-fff01714"]


def test_a_model_folder_beside_the_settings_file_is_named_by_its_whole_path(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    content = {
        **settings().model_dump(mode="json", exclude_none=True),
        "student": {"backend": "transformers", "model": "m"},
        "teacher": {"backend": "openai", "model": "m", "base_url": "http://127.0.0.1:1"},
        "judge": {"backend": "sglang", "model": "m", "base_url": "http://127.0.0.1:1"},
    }
    given = load_settings(content, base=tmp_path, source="my.yaml")
    assert given.student.identity == given.judge.identity == str((tmp_path / "m").resolve())
    assert given.teacher.identity == "m"
