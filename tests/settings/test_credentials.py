"""Secrets: none in what is written from settings, none in messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from meteor_agents.assembly.config_file import dump_config
from meteor_agents.backends.options import from_environment
from meteor_agents.backends.registry import open_model
from meteor_agents.errors import SettingsError
from meteor_agents.settings import ModelSettings, Settings, load_settings
from meteor_agents.settings.credentials import HIDDEN, hidden_in, without_secrets

SECRETIVE: dict[str, Any] = {
    "headers": {"X-Team": "planted"},
    "headers_env": {"X-Api-Key": "KEY_VARIABLE"},
    "api_key_env": "KEY_VARIABLE",
    "launch": {
        "python": "/usr/bin/python",
        "flags": ["--tp", "2", "--hf-token", "planted", "--other-secret=planted", "--tokenizer-path", "t"],
        "environment": {"SOME_VARIABLE": "planted", "LEVEL": 3},
    },
    "api_key": "planted",
    "deeply": [{"password": "planted", "nested": {"client_secret": ["planted", 7], "words": "kept"}}],
    "command": "serve --api-key planted --port 1",
    "token_limit": "max_tokens",
}
KEPT = {
    "headers": {"X-Team": HIDDEN},
    "headers_env": {"X-Api-Key": "KEY_VARIABLE"},
    "api_key_env": "KEY_VARIABLE",
    "launch": {
        "python": "/usr/bin/python",
        "flags": ["--tp", "2", "--hf-token", HIDDEN, f"--other-secret={HIDDEN}", "--tokenizer-path", "t"],
        "environment": {"SOME_VARIABLE": HIDDEN, "LEVEL": HIDDEN},
    },
    "api_key": HIDDEN,
    "deeply": [{"password": HIDDEN, "nested": {"client_secret": [HIDDEN, HIDDEN], "words": "kept"}}],
    "command": f"serve --api-key {HIDDEN} --port 1",
    "token_limit": "max_tokens",
}


def settings(**more: Any) -> Settings:
    content = {
        "name": "run",
        "domain": "sums",
        "questions": {"path": "q.jsonl", "heldout": {"secret": "kept.jsonl"}},
        "student": {"backend": "transformers", "model": "m"},
        "teacher": {"backend": "reference"},
        "judge": {"verifier": "exact"},
    }
    return load_settings({**content, **more}, base=Path("/base"), source="my.yaml")


MODEL = {"backend": "openai", "model": "m", **SECRETIVE}
EVERYWHERE = {
    "student": MODEL,
    "teacher": MODEL,
    "judge": MODEL,
    "evaluate": {
        "models": [{"name": "rival", **MODEL}],
        "judges": [MODEL],
        "verifier": {"verifier": "mine:check", **SECRETIVE},
    },
}


def test_saved_settings_hold_no_secret_wherever_a_model_or_a_verifier_is_named() -> None:
    saved = dump_config(settings(**EVERYWHERE))
    assert "planted" not in saved
    again = load_settings(yaml.safe_load(saved), base=Path(), source="config.yaml")
    evaluate = again.evaluate
    assert evaluate.verifier is not None
    models: list[ModelSettings] = [again.student, again.teacher, again.judge, *evaluate.models, *evaluate.judges]
    assert [given.options for given in models] == [KEPT] * 5
    assert evaluate.verifier.options == KEPT
    assert again.questions.heldout == {"secret": Path("/base/kept.jsonl")}
    judged = settings(judge={"verifier": "mine:check", "password": "planted"})
    assert "planted" not in dump_config(judged)


def test_what_is_no_secret_is_saved_as_it_is() -> None:
    options = {"base_url": "http://127.0.0.1:1", "tokenizer": "t", "max_tokens": 3, "keys": ["a"], "json_schema": True}
    assert without_secrets(options) == options
    assert hidden_in(options) is None


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"headers": {"X-Team": HIDDEN}}, "headers.X-Team"),
        ({"launch": {"environment": {"A": HIDDEN}}}, "launch.environment.A"),
        ({"command": f"--api-key {HIDDEN}"}, "command"),
    ],
)
def test_a_model_is_not_opened_with_a_value_that_was_left_out(options: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError) as error:
        open_model("teacher", ModelSettings.model_validate({"backend": "openai", "model": "m", **options}))
    assert f"teacher.{named}: the value was left out when these settings were saved; write it again" in str(error.value)


def test_three_stars_in_a_reply_are_no_hidden_value() -> None:
    assert hidden_in({"replies": ["*** a headline ***", "a\n***\nb"]}) is None


@pytest.mark.parametrize("nested", [{"servers": {"first": "URL"}}, {"servers": [{"at": "URL"}]}, {"base_url": ["URL"]}])
def test_a_secret_in_an_address_is_refused_at_every_depth(nested: dict[str, Any]) -> None:
    url = "https://api.example.com/v1?api-key=sk-planted-0123"
    options = yaml.safe_load(yaml.safe_dump(nested).replace("URL", url))
    with pytest.raises(SettingsError, match="holds the parameter 'api-key'") as error:
        settings(judge={"backend": "x", **options})
    assert "planted" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("sk-plant\u200bed", "the invisible character U+200B (character 9 of 11)"),
        ("\ufeffsk-planted", "the invisible character U+FEFF (character 1 of 11)"),
        ("sk-plant\ned", "a line break (character 9 of 11)"),
        ("sk-plant\red", "a line break"),
        ("sk-plant\ted", "the invisible character U+0009"),
        ("sk-planted\u00a0x", "the invisible character U+00A0"),
        ("sk-plantéd", "a character that is not ASCII"),
    ],
)
def test_a_key_that_was_copied_badly_is_refused_by_its_setting_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, value: str, what: str
) -> None:
    monkeypatch.setenv("SOME_KEY", value)
    with pytest.raises(SettingsError) as error:
        from_environment("teacher.api_key_env", "SOME_KEY")
    message = str(error.value)
    assert message.startswith(f"teacher.api_key_env: the environment variable SOME_KEY holds {what}")
    assert "plant" not in message
    assert "é" not in message


def test_white_space_around_a_key_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", " sk-planted and more\n")
    assert from_environment("teacher.api_key_env", "SOME_KEY") == "sk-planted and more"
