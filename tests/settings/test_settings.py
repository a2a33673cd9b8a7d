from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from meteor_agents.assembly.config_file import dump_config, read_config
from meteor_agents.errors import SettingsError
from meteor_agents.models import SamplingParams
from meteor_agents.settings.credentials import HIDDEN
from meteor_agents.settings.loading import load_settings


def content(**more: Any) -> dict[str, Any]:
    return {
        "name": "run",
        "domain": "sums",
        "questions": {"path": "q.jsonl"},
        "student": {"backend": "transformers", "model": "m"},
        "teacher": {"backend": "reference"},
        "judge": {"verifier": "exact"},
        **more,
    }


def refused(settings: object) -> str:
    with pytest.raises(SettingsError) as error:
        load_settings(settings, base=Path("/base"), source="my.yaml")
    return str(error.value)


def test_relative_paths_are_taken_from_the_settings_file() -> None:
    settings = load_settings(content(prompts={"dir": "p"}), base=Path("/base"), source="my.yaml")
    assert settings.questions.path == Path("/base/q.jsonl")
    assert settings.prompts.dir == Path("/base/p")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"refien": {}}, "unknown setting 'refien'; did you mean 'refine'?"),
        ({"refine": {"update_evry": 3}}, "unknown setting 'refine.update_evry'; did you mean 'update_every'?"),
        ({"training": {"lora": {"rank": 3}}}, "unknown setting 'training.lora.rank'"),
        ({"student": {"backend": "x", "sampling": {"temprature": 1}}}, "did you mean 'temperature'?"),
        ({"refine": {"iterations": 0}}, "refine.iterations"),
        ({"judge": {}}, "a judge has either a backend or a verifier"),
        ({"judge": {"backend": "openai", "verifier": "exact"}}, "a judge has either a backend or a verifier"),
        ({"self_train": {"high": {"beam": 1}}}, "self_train.high"),
        ({"self_train": {"margin": 0}}, "self_train.margin"),
        ({"distill": {"training": {"epoch": 3}}}, "did you mean 'epochs'?"),
        ({"name": "a/b"}, "name"),
        ({"questions": {}}, "the setting 'questions.path' is missing"),
        (
            {"questions": {"path": "q", "fields": {"qestion": "x"}}},
            "questions.fields: 'qestion' is not one of our field names; did you mean 'question'?",
        ),
        ({"questions": {"path": "q", "fields": {"xyz": "x"}}}, "known: id, question, title, reference, reasoning,"),
    ],
)
def test_a_wrong_setting_is_named_with_the_nearest_known_one(change: dict[str, Any], complaint: str) -> None:
    message = refused(content(**change))
    assert complaint in message
    assert message.startswith("my.yaml")


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("https://user:sk-planted-0123@api.example.com/v1", "a user name or a key"),
        ("https://sk-planted-0123@api.example.com/v1", "a user name or a key"),
        ("https://api.example.com/v1?api-key=sk-planted-0123", "the parameter 'api-key'"),
        ("https://api.example.com/v1?version=2&access_token=sk-planted-0123", "the parameter 'access_token'"),
    ],
)
def test_a_secret_in_an_address_is_refused_and_not_repeated(address: str, what: str) -> None:
    message = refused(content(judge={"backend": "openai", "model": "m", "base_url": address}))
    assert f"judge: the address in base_url holds {what}" in message
    assert "api_key_env: VARIABLE" in message
    assert "planted" not in message


def test_an_address_without_a_secret_is_taken() -> None:
    address = "https://api.example.com:8443/v1?api-version=2024-06-01"
    judge = load_settings(content(judge={"backend": "openai", "base_url": address}), base=Path(), source="x").judge
    assert judge.options["base_url"] == address


def test_a_role_keeps_its_own_sampling_beside_the_keys_that_are_given() -> None:
    longer = {"sampling": {"max_tokens": 64}}
    settings = load_settings(
        content(teacher={"backend": "x", **longer}, judge={"backend": "x", **longer}), base=Path(), source="x"
    )
    assert settings.judge.sampling == SamplingParams(temperature=0, top_p=1, max_tokens=64)
    assert settings.teacher.sampling == SamplingParams(temperature=0.7, top_p=1, max_tokens=64)
    assert settings.student.sampling == SamplingParams(temperature=0.7, top_p=0.9, max_tokens=512)


def test_a_training_configuration_that_is_a_file_is_taken_from_the_settings_file() -> None:
    settings = load_settings(
        content(training={"config": "zero2-offload"}, refine={"training": {"config": "my/ds.json"}}),
        base=Path("/base"), source="x",
    )  # fmt: skip
    assert settings.training.config == "zero2-offload"
    assert settings.training_for(settings.distill).config == "zero2-offload"
    assert settings.training_for(settings.refine).config == "/base/my/ds.json"


def test_options_that_decide_no_reply_are_told_apart() -> None:
    asked = {"base_url": "u", "headers": {}, "headers_env": {}, "api_key_env": "K", "device": "cpu", "max_batch": 2}
    student = load_settings(
        content(student={"backend": "x", "dtype": "float32", **asked}), base=Path(), source="x"
    ).student
    assert student.deciding_options == {"dtype": "float32"}
    assert student.options == {"dtype": "float32", **asked}


def test_saved_settings_hold_no_header_value() -> None:
    judge = {"backend": "openai", "model": "m", "headers": {"X-Team": "planted"}, "headers_env": {"X-Api-Key": "KEY"}}
    saved = dump_config(load_settings(content(judge=judge), base=Path(), source="x"))
    assert "planted" not in saved
    assert load_settings(yaml.safe_load(saved), base=Path(), source="x").judge.options == {
        "headers": {"X-Team": HIDDEN}, "headers_env": {"X-Api-Key": "KEY"},
    }  # fmt: skip


def test_settings_that_are_no_mapping_are_refused() -> None:
    assert "must hold settings" in refused(["a"])
    assert "must hold settings" in refused(None)


def test_stage_training_overrides_single_fields() -> None:
    settings = load_settings(
        content(training={"epochs": 3, "lora": {"r": 8}}, refine={"training": {"epochs": 1}}), base=Path(), source="x"
    )
    assert settings.training_for(settings.refine).epochs == 1
    assert settings.training_for(settings.refine).lora == settings.training.lora
    assert settings.training_for(settings.distill).epochs == 3


def test_set_overrides_the_file_and_the_resolved_settings_load_again(tmp_path: Path) -> None:
    settings, _ = read_config("quickstart", ["refine.update_every=7", "training.lora.r=4"])
    assert (settings.refine.update_every, settings.training.lora and settings.training.lora.r) == (7, 4)
    (tmp_path / "config.yaml").write_text(dump_config(settings))
    again, _ = read_config(str(tmp_path / "config.yaml"))
    assert again == settings


@pytest.mark.parametrize("override", ["refine", "=3", "refine.update_every.x=3", "a=[1"])
def test_a_malformed_set_is_refused(override: str) -> None:
    with pytest.raises(SettingsError, match="--set"):
        read_config("quickstart", [override])


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match="did you mean the preset quickstart"):
        read_config("quickstrat")


def test_a_file_that_is_not_yaml_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: [1\nb: 2")
    with pytest.raises(SettingsError, match="line 2"):
        read_config(str(tmp_path / "x.yaml"))
