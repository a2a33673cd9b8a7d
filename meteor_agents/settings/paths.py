"""Relative paths in settings, made absolute: they are taken from the folder of the settings file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from meteor_agents.settings.decoding import Decoding
from meteor_agents.settings.evaluation import EvaluateSettings
from meteor_agents.settings.questions import QuestionsSettings
from meteor_agents.settings.roles import MODEL_FOLDERS, ROLES, ModelSettings
from meteor_agents.settings.run import PromptsSettings, Settings
from meteor_agents.settings.stages import STAGES_THAT_TRAIN, SelfTrainSettings, TakeSettings
from meteor_agents.training import TrainingSettings


def with_absolute_paths(settings: Settings, base: Path) -> Settings:
    """The same settings, with every path in them absolute. What is only a name (a preset, a model to fetch) stays."""
    stages = {name: _stage(getattr(settings, name), base) for name in STAGES_THAT_TRAIN}
    return settings.model_copy(
        update={
            "questions": _questions(settings.questions, base),
            "prompts": PromptsSettings(dir=base / settings.prompts.dir) if settings.prompts.dir else settings.prompts,
            **{role: _model(getattr(settings, role), base) for role in ROLES},
            **stages,
            "self_train": _self_train(settings.self_train, base),
            "training": _training(settings.training, base),
            "evaluate": _evaluate(settings.evaluate, base),
        }
    )


def _questions(questions: QuestionsSettings, base: Path) -> QuestionsSettings:
    heldout = {name: base / path for name, path in questions.heldout.items()}
    return questions.model_copy(update={"path": base / questions.path, "heldout": heldout})


AnyModel = TypeVar("AnyModel", bound=ModelSettings)


def _model(role: AnyModel, base: Path) -> AnyModel:
    """A model that is a folder beside the settings file gets its whole path; every other name stays."""
    if role.backend in MODEL_FOLDERS and role.model and (base / role.model).is_dir():
        return role.model_copy(update={"model": str((base / role.model).resolve())})
    return role


AnyStage = TypeVar("AnyStage", bound=TakeSettings)


def _stage(stage: AnyStage, base: Path) -> AnyStage:
    changed = _training_paths(stage.training, base)
    return stage.model_copy(update={"training": {**stage.training, **changed}}) if changed else stage


def _self_train(stage: SelfTrainSettings, base: Path) -> SelfTrainSettings:
    """The weaker model of a contrast may be a folder, like the student's own."""
    found: dict[str, Decoding] = {}
    for side in ("low", "high"):
        given: Literal["greedy"] | Decoding = getattr(stage, side)
        if given != "greedy" and given.contrast and (base / given.contrast).is_dir():
            found[side] = given.model_copy(update={"contrast": str((base / given.contrast).resolve())})
    return _stage(stage.model_copy(update=found), base)


def _training(training: TrainingSettings, base: Path) -> TrainingSettings:
    return training.model_copy(update=_training_paths(training.model_dump(), base))


def _training_paths(training: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The keys of `training` that are files, with absolute paths.

    A preset's name, which has neither a folder nor a suffix, is no file.
    """
    found: dict[str, Any] = {}
    config, hostfile = training.get("config"), training.get("hostfile")
    if config is not None and config != Path(config).stem:
        found["config"] = str(base / config)
    if hostfile is not None:
        found["hostfile"] = base / hostfile
    return found


def _evaluate(evaluate: EvaluateSettings, base: Path) -> EvaluateSettings:
    return evaluate.model_copy(
        update={
            "models": [_model(model, base) for model in evaluate.models],
            "judges": [_model(judge, base) for judge in evaluate.judges],
            "human": base / evaluate.human if evaluate.human else None,
        }
    )
