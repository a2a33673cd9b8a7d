"""The settings of a whole run: the sections, and what has to fit between them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from meteor_agents.settings.complaints import complaints
from meteor_agents.settings.decoding import Decoding
from meteor_agents.settings.evaluation import EvaluateSettings
from meteor_agents.settings.questions import QuestionsSettings
from meteor_agents.settings.roles import JudgeSettings, StudentSettings, TeacherSettings
from meteor_agents.settings.section import Section
from meteor_agents.settings.stages import (
    STAGES_THAT_TRAIN,
    DistillSettings,
    RefineSettings,
    SelfTrainSettings,
    TakeSettings,
)
from meteor_agents.training import TrainingSettings


class PromptsSettings(Section):
    """Where the prompt templates are."""

    dir: Path | None = None
    """A folder, relative to the settings file, whose templates replace the built-in ones of the same file name."""


class CheckpointsSettings(Section):
    """Which checkpoints stay on the disk."""

    keep: int = Field(default=2, ge=1)
    """How many of the newest checkpoints to keep, besides those that ended a stage and those that a resumed run needs."""


class BudgetSettings(Section):
    """When to stop because of what was spent. Everything is saved, and with a higher budget the run continues."""

    usd: float | None = Field(default=None, gt=0)
    """US dollars for all calls of the run together. Every model that may cost money then needs a `price`."""
    tokens: int | None = Field(default=None, gt=0)
    """Tokens of all prompts and replies of the run together."""


class Settings(Section):
    """A whole run, as its settings file describes it. `meteor_agents.load_settings` makes one.

    Example:
        >>> from meteor_agents import load_settings
        >>> settings = load_settings("quickstart", {"training.epochs": 1})
        >>> settings.name, settings.training.epochs
        ('quickstart', 1)
    """

    name: str = Field(min_length=1, max_length=100, pattern=r"^[\w.-]+$")
    """The run's name, and that of its folder in `runs/`: letters, digits, `_`, `-` and `.`."""
    domain: str = Field(min_length=1)
    """The field that the student is to become an expert in, as prompts are to name it."""
    questions: QuestionsSettings
    """The questions, and which of them are held out."""
    student: StudentSettings
    """The small model that is trained."""
    teacher: TeacherSettings
    """The large model that writes the answers of stage 1."""
    judge: JudgeSettings
    """The model or the verifier that decides whether an answer is correct."""
    prompts: PromptsSettings = PromptsSettings()
    """The prompt templates."""
    distill: DistillSettings = DistillSettings()
    """Stage 1: learning from the teacher."""
    refine: RefineSettings = RefineSettings()
    """Stage 2: learning from the judge's guidance."""
    self_train: SelfTrainSettings = SelfTrainSettings()
    """Stage 3: learning from the student's own better replies."""
    evaluate: EvaluateSettings = EvaluateSettings()
    """What is measured on held-out questions."""
    training: TrainingSettings = TrainingSettings()
    """How the weights are trained in every stage."""
    checkpoints: CheckpointsSettings = CheckpointsSettings()
    """Which checkpoints are kept."""
    budget: BudgetSettings = BudgetSettings()
    """When to stop because of what was spent."""
    retry_failed: bool = True
    """Ask the failed questions of a finished stage again when the command is repeated."""
    fail_on: float = Field(default=0.5, ge=0, le=1)
    """A stage in which a larger share of the questions failed ends the command with exit code 1. What it has is stored."""

    _base: Path = PrivateAttr(default_factory=Path)
    """See `base`."""

    @property
    def base(self) -> Path:
        """The folder that a verifier's relative paths start from: that of the settings file."""
        return self._base

    def based_in(self, folder: Path) -> Settings:
        """These settings, with a verifier's relative paths starting from `folder`."""
        copy = self.model_copy()
        copy._base = folder
        return copy

    def training_for(self, stage: TakeSettings) -> TrainingSettings:
        """`training`, with what the stage sets differently."""
        return TrainingSettings.model_validate({**self.training.model_dump(), **stage.training})

    def refine_goes_on_from(self, stage: TakeSettings) -> bool:
        """Whether an update of stage 2 starts with the optimizer's state that the training of `stage` left behind."""
        before, now = self.training_for(stage), self.training_for(self.refine)
        return self.refine.init == "previous" and before.carries_optimizer and now.carries_optimizer

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if name.startswith("."):
            raise ValueError(f"{name!r} begins with a dot, so it names a hidden or a parent folder; choose another name")
        if name.endswith(".") or _DEVICE.fullmatch(name.partition(".")[0]):
            raise ValueError(f"{name!r} cannot be a folder's name on every system; choose another name")
        return name

    @model_validator(mode="after")
    def _self_train_fits(self) -> Settings:
        stage = self.self_train
        for side in ("low", "high"):
            given: Literal["greedy"] | Decoding = getattr(stage, side)
            if given == "greedy":
                continue
            if given.by == "verifier" and self.judge.verifier is None:
                raise ValueError(f"self_train.{side}.by: verifier, but the judge is a model; use `by: judge`")
            if given.samples > 1 and given.temperature is None and self.student.sampling.temperature == 0:
                raise ValueError(
                    f"self_train.{side}: the student's sampling.temperature is 0, so all {given.samples} samples would be "
                    "equal; give self_train's decoding a temperature"
                )
        if stage.verify == "verifier" and self.judge.verifier is None:
            raise ValueError("self_train.verify: verifier, but the judge is a model; use `verify: judge`")
        if stage.stop_early and (self.judge.verifier is None or not self.questions.gate):
            raise ValueError(
                "self_train.stop_early needs a verifier as judge, and questions.gate above 0: a model judge is not asked "
                "about the gate's questions"
            )
        return self

    @model_validator(mode="after")
    def _stage_training_is_valid(self) -> Settings:
        for name in STAGES_THAT_TRAIN:
            try:
                self.training_for(getattr(self, name))
            except ValidationError as error:
                raise ValueError(next(complaints(error, TrainingSettings, f"{name}.training"))) from error
        return self


_DEVICE = re.compile(r"con|prn|aux|nul|com[0-9]|lpt[0-9]", re.IGNORECASE)
"""Names that Windows keeps for devices."""
