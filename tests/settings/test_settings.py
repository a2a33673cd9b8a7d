from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from meteor_agents.assembly.config_file import dump_config, read_config
from meteor_agents.backends.options import AnthropicOptions, ScriptedOptions, ServerOptions, TransformersOptions
from meteor_agents.backends.sglang_servers.options import SGLangOptions
from meteor_agents.errors import SettingsError
from meteor_agents.models import SamplingParams
from meteor_agents.settings import decoding, evaluation, questions, roles, run, section, stages
from meteor_agents.settings.credentials import HIDDEN
from meteor_agents.settings.loading import load_settings
from meteor_agents.settings.roles import NOT_DECIDING

SECTIONS = (decoding, evaluation, questions, roles, run, section, stages)


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
        ({"distill": {"training": {"lora": {"rank": 3}}}},
         "unknown setting 'distill.training.lora.rank'; known: r, alpha, dropout, target_modules"),
        ({"refine": {"training": {"epochs": 0}}}, "refine.training.epochs: Input should be greater than or equal to 1"),
        ({"refine": {"training": {"epochs": [1]}}}, "refine.training.epochs: Input should be a valid integer"),
        ({"refine": {"training": 3}}, "refine.training: Input should be a valid dictionary"),
        ({"evaluate": {"models": [{"backend": "x", "name": "a", "sampling": {"temprature": 1}}]}},
         "unknown setting 'evaluate.models.0.sampling.temprature'; did you mean 'temperature'?"),
        ({"questions": {"path": "q", "heldout": {" ": "h"}}}, "questions.heldout: every held-out set needs a name"),
        ({"\x1b[31m": 1}, "unknown setting '\\x1b[31m'"),
        ({"name": "a/b"}, "name"),
        ({"name": ".."}, "name: '..' begins with a dot, so it names a hidden or a parent folder; choose another name"),
        ({"name": "."}, "name: '.' begins with a dot"),
        ({"name": ".hidden"}, "name: '.hidden' begins with a dot"),
        ({"name": "aux"}, "name: 'aux' cannot be a folder's name on every system"),
        ({"name": "COM1.txt"}, "name: 'COM1.txt' cannot be a folder's name on every system"),
        ({"name": "run."}, "name: 'run.' cannot be a folder's name on every system"),
        ({"name": "r" * 101}, "name: String should have at most 100 characters"),
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
    assert "is empty" in refused(None)
    assert "Keys should be strings" in refused({3: 4})


def test_a_setting_without_a_value_can_be_given_one_by_set(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({**content(), "refine": {"training": None}}))
    settings = read_config(str(tmp_path / "x.yaml"), ["refine.training.epochs=2"])
    assert settings.training_for(settings.refine).epochs == 2


def test_a_hostfile_of_one_stage_is_taken_from_the_settings_file() -> None:
    given = load_settings(content(refine={"training": {"hostfile": "hosts"}}), base=Path("/base"), source="x")
    assert given.training_for(given.refine).hostfile == Path("/base/hosts")
    assert given.training_for(given.distill).hostfile is None


@pytest.mark.parametrize(
    "model", [model for module in SECTIONS for model in vars(module).values()
              if isinstance(model, type) and issubclass(model, BaseModel) and model.__module__ == module.__name__],
    ids=lambda model: model.__name__,
)  # fmt: skip
def test_every_setting_is_explained_in_its_source(model: type[BaseModel]) -> None:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(tree, ast.ClassDef)
    assert ast.get_docstring(tree)
    for field, after in pairwise(tree.body):
        if isinstance(field, ast.AnnAssign):
            assert isinstance(after, ast.Expr), ast.unparse(field)


def test_every_option_of_a_backend_is_known_to_decide_replies_or_not() -> None:
    """`NOT_DECIDING` is a list of names; here each option of our backends is on one side of it."""
    ours = (TransformersOptions, ServerOptions, AnthropicOptions, SGLangOptions, ScriptedOptions)
    options = {name for model in ours for name in model.model_fields}
    assert options >= NOT_DECIDING
    assert options - NOT_DECIDING == {"dtype", "quantization", "json_schema", "replies", "function", "cycle"}


def test_reading_settings_imports_nothing_that_only_calls_need() -> None:
    code = "import sys, meteor_agents.settings.yaml_text, meteor_agents.settings; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "meteor_agents" in loaded
    assert not loaded & {"tenacity", "asyncio_throttle", "httpx", "aiohttp", "jinja2", "typer", "rich"}


def test_stage_training_overrides_single_fields() -> None:
    settings = load_settings(
        content(training={"epochs": 3, "lora": {"r": 8}}, refine={"training": {"epochs": 1}}), base=Path(), source="x"
    )
    assert settings.training_for(settings.refine).epochs == 1
    assert settings.training_for(settings.refine).lora == settings.training.lora
    assert settings.training_for(settings.distill).epochs == 3


def test_set_overrides_the_file_and_the_resolved_settings_load_again(tmp_path: Path) -> None:
    settings = read_config("quickstart", ["refine.update_every=7", "training.lora.r=4"])
    assert (settings.refine.update_every, settings.training.lora and settings.training.lora.r) == (7, 4)
    (tmp_path / "config.yaml").write_text(dump_config(settings))
    again = read_config(str(tmp_path / "config.yaml"))
    assert again.model_dump() == settings.model_dump()


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
