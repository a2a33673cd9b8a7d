"""The settings files that ship with the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from meteor_agents.assembly.config_file import PRESETS, dump_config, read_config
from meteor_agents.backends.options import Options, ServerOptions, TransformersOptions, options_of
from meteor_agents.backends.training.config import load_config
from meteor_agents.settings.decoding import Decoding, decoding
from meteor_agents.settings.loading import load_settings
from meteor_agents.settings.roles import ModelSettings
from meteor_agents.settings.run import Settings

NAMES = sorted(preset.stem for preset in PRESETS.glob("*.yaml"))
PUBLISHED = ("llama3-8b", "qwen2-7b")
DEEPSPEED = sorted(PRESETS.glob("deepspeed/*.json"))
ZERO_STAGES = {"zero1": 1, "zero2": 2, "zero2-offload": 2, "zero3": 3, "zero3-offload": 3}
OPTIONS: dict[str, type[Options]] = {
    "openai": ServerOptions,
    "sglang": ServerOptions,
    "transformers": TransformersOptions,
}


def preset(name: str) -> Settings:
    settings = read_config(name)
    return settings


def test_presets_that_the_docs_name_exist() -> None:
    assert {"llama3-8b", "qwen2-7b", "local-sglang", "quickstart"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_preset_loads_by_its_name(name: str) -> None:
    assert preset(name).name == name


@pytest.mark.parametrize("name", NAMES)
def test_preset_paths_are_taken_from_its_own_folder(name: str) -> None:
    assert preset(name).questions.path.is_relative_to(PRESETS)


@pytest.mark.parametrize("name", NAMES)
def test_preset_sets_every_stage_to_a_training_that_is_valid(name: str) -> None:
    settings = preset(name)
    for stage in (settings.distill, settings.refine, settings.self_train):
        training = settings.training_for(stage)
        assert "zero_optimization" in load_config(training.config)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("role", ["student", "teacher", "judge"])
def test_backend_knows_every_option_that_a_preset_gives_it(name: str, role: str) -> None:
    settings: ModelSettings = getattr(preset(name), role)
    if settings.backend in OPTIONS:
        assert options_of(role, settings, OPTIONS[settings.backend])
    else:  # the data's own answers take no options, and a verifier checks its own
        assert settings.backend in ("reference", "")


@pytest.mark.parametrize("name", NAMES)
def test_preset_reads_back_from_the_run_directory_as_it_was(name: str, tmp_path: Path) -> None:
    settings = preset(name)
    again = load_settings(yaml.safe_load(dump_config(settings)), base=tmp_path, source="config.yaml")
    assert again.model_dump() == settings.model_dump()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_method_settings(name: str) -> None:
    settings = preset(name)
    assert settings.distill.guideline
    assert (settings.refine.iterations, settings.refine.update_every) == (3, 10)
    assert (settings.refine.guide_from, settings.refine.init, settings.refine.data) == ("judge", "previous", "buffer")
    assert settings.refine.replay == 0
    assert (settings.self_train.turns, settings.self_train.verify) == (1, False)
    assert (settings.self_train.low, settings.self_train.high) == ("greedy", Decoding(beam=10))
    assert (settings.evaluate.sample, settings.evaluate.pairwise) == (400, True)
    assert settings.questions.holdout == 400
    assert settings.questions.fields == {"title": "question_title", "question": "question_content"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_training_settings(name: str) -> None:
    settings = preset(name)
    first = settings.training_for(settings.distill)
    assert (first.learning_rate, first.epochs, first.max_length) == (3e-5, 3, 512)
    assert (first.batch_size, first.dtype, first.config, first.lora) == (32, "float16", "zero2", None)
    assert first.processes * first.micro_batch_size * 8 == first.batch_size
    update = settings.training_for(settings.refine)
    assert (update.learning_rate, update.epochs) == (3e-5, 1)
    last = settings.training_for(settings.self_train)
    assert (last.learning_rate, last.epochs) == (1e-5, 1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_decoding(name: str) -> None:
    settings = preset(name)
    assert (settings.student.sampling.temperature, settings.student.sampling.top_p) == (0.7, 0.9)
    assert (settings.teacher.sampling.temperature, settings.judge.sampling.temperature) == (0.7, 0.0)
    low, high = (decoding(which, settings.student.sampling) for which in ("greedy", settings.self_train.high))
    assert (low.temperature, low.beams) == (0.0, 1)
    assert (high.temperature, high.beams) == (0.0, 10)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_students_are_taught_and_judged_over_the_openai_interface(name: str) -> None:
    settings = preset(name)
    for role in (settings.teacher, settings.judge):
        assert (role.backend, role.options["api_key_env"]) == ("openai", "OPENAI_API_KEY")


def test_local_preset_leaves_this_machine_nowhere() -> None:
    settings = preset("local-sglang")
    assert settings.student.backend == "transformers"
    for role in (settings.teacher, settings.judge):
        assert (role.backend, role.options) == ("sglang", {"base_url": "http://127.0.0.1:30000"})


def test_no_preset_holds_a_secret() -> None:
    for name in NAMES:
        text = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8")
        assert "api_key:" not in text
        assert "sk-" not in text


def test_deepspeed_presets_are_the_ones_that_are_documented() -> None:
    assert {path.stem for path in DEEPSPEED} == set(ZERO_STAGES)


@pytest.mark.parametrize("path", DEEPSPEED, ids=lambda path: path.stem)
def test_deepspeed_preset_names_its_zero_stage(path: Path) -> None:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    zero = content["zero_optimization"]
    assert zero["stage"] == ZERO_STAGES[path.stem]
    assert ("offload_optimizer" in zero) == path.stem.endswith("-offload")


@pytest.mark.parametrize("path", DEEPSPEED, ids=lambda path: path.stem)
def test_deepspeed_preset_leaves_to_the_settings_what_they_decide(path: Path) -> None:
    assert set(json.loads(path.read_text(encoding="utf-8"))) == {"zero_optimization"}
