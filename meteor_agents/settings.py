"""The settings of a run (the YAML file), validated: unknown keys are refused with the nearest known one named."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, Union
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from .errors import SettingsError
from .limits import Limits
from .messages import Question
from .models import SamplingParams
from .training import PairwiseLoss, TrainingSettings

ROLES = ("student", "teacher", "judge")
NOT_DECIDING = frozenset(
    {
        "base_url",
        "headers",
        "headers_env",
        "api_key_env",
        "query",
        "token_limit",
        "device",
        "max_batch",
        "launch",
        "while_training",
    }
)
"""Options of backends that say where and how a model is asked, but not what it replies."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class QuestionsSettings(Section):
    path: Path
    """JSON, JSONL, CSV or Parquet; rows have question, and may have id, title, reference, reasoning, metadata."""
    fields: dict[str, str] = Field(default_factory=dict)
    """Our field name (id, question, title, reference, reasoning, metadata) -> the file's."""
    holdout: int = Field(default=64, ge=0)
    """Questions set apart for evaluation, chosen by `seed`."""
    heldout: dict[str, Path] = Field(default_factory=dict)
    """More held-out sets, name -> file, each reported apart."""
    gate: int = Field(default=16, ge=0)
    """Questions set apart to decide whether an update is kept. Only a verifier judges them; a model judge costs money."""
    seed: int = 0

    @field_validator("fields")
    @classmethod
    def _our_names(cls, fields: dict[str, str]) -> dict[str, str]:
        for name in fields:
            if name not in Question.model_fields:
                raise ValueError(
                    f"{name!r} is not one of our field names{_nearest(name, Question.model_fields)} "
                    "(write our name first, then the file's)"
                )
        return fields


class PriceSettings(Section):
    input: float = Field(ge=0)
    """US dollars per million input tokens."""
    output: float = Field(ge=0)


class ModelSettings(BaseModel):
    """One role's model. Keys that are not named here are options of the backend, which checks them."""

    model_config = ConfigDict(frozen=True, extra="allow")

    backend: str
    model: str | None = None
    """A model folder, a name that `meteor models fetch` knows, or the name that the server uses."""
    sampling: SamplingParams = SamplingParams()
    """What is not given keeps the role's own default: a judge that is given only `max_tokens` stays greedy."""
    limits: Limits = Limits()
    price: PriceSettings | None = None

    @field_validator("sampling", mode="before")
    @classmethod
    def _over_the_roles_default(cls, given: Any) -> Any:
        default: SamplingParams = cls.model_fields["sampling"].default
        return {**default.model_dump(), **given} if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _no_secret_in_an_address(self) -> Self:
        for name, value in self.options.items():
            texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
            if what := next(filter(None, map(_secret_in, texts)), None):
                raise ValueError(
                    f"the address in {name} holds {what}, and a settings file must hold no secret; leave it out, export "
                    f"it as an environment variable and write api_key_env: VARIABLE"
                )
        return self

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    @property
    def deciding_options(self) -> dict[str, Any]:
        """The options that may change a reply, and so belong to a recipe. Neither secrets nor addresses are among them."""
        return {name: value for name, value in self.options.items() if name not in NOT_DECIDING}

    @property
    def identity(self) -> str:
        """What the store calls the model."""
        return self.model or self.backend


def _secret_in(address: str) -> str | None:
    """What in this URL looks like a secret, in words that do not repeat it; None in every other text."""
    if "://" not in address:
        return None
    try:
        url = urlsplit(address)
        parameters = [name for name, _ in parse_qsl(url.query, keep_blank_values=True)]
    except ValueError:
        return None  # no URL at all: the backend says so
    if "@" in url.netloc:
        return "a user name or a key"
    secret = next((name for name in parameters if _CREDENTIAL.search(name)), None)
    return f"the parameter {secret!r}, which looks like a credential" if secret else None


_CREDENTIAL = re.compile(r"key|token|secret|passw|auth|sig", re.IGNORECASE)


class StudentSettings(ModelSettings):
    sampling: SamplingParams = SamplingParams(temperature=0.7, top_p=0.9)


class TeacherSettings(ModelSettings):
    sampling: SamplingParams = SamplingParams(temperature=0.7, top_p=1.0, max_tokens=1024)


class JudgeSettings(ModelSettings):
    """A judge is a model, or a verifier with its options."""

    backend: str = ""
    verifier: str | None = None
    sampling: SamplingParams = SamplingParams(temperature=0.0, top_p=1.0, max_tokens=1024)

    @model_validator(mode="after")
    def _one_of_two(self) -> JudgeSettings:
        if bool(self.backend) == bool(self.verifier):
            raise ValueError("a judge has either a backend or a verifier")
        return self

    @property
    def identity(self) -> str:
        return f"verifier:{self.verifier}" if self.verifier else super().identity


class PromptsSettings(Section):
    dir: Path | None = None
    """Templates here replace the built-in ones of the same file name."""


class TakeSettings(Section):
    """Which of the training questions a stage uses, in the file's order."""

    questions: int | None = Field(default=None, ge=1)
    """At most so many; all when absent."""
    skip: int = Field(default=0, ge=0)
    """Leave out the first so many, for example those of an earlier stage."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Fields of `training` that this stage sets otherwise."""


class DistillSettings(TakeSettings):
    guideline: bool = True
    """The student writes a guideline for the teacher; off is plain distillation."""


class RefineSettings(TakeSettings):
    iterations: int = Field(default=3, ge=1)
    """N: tries for one question."""
    update_every: int = Field(default=10, ge=1)
    """K: accepted traces for one update of the student."""
    guide_from: Literal["judge", "teacher"] = "judge"
    conversion: Literal["final"] = "final"
    """final: question -> the accepted reply."""
    init: Literal["previous", "base"] = "previous"
    """What an update starts from: the student as it is, or the one that entered the stage."""
    data: Literal["buffer", "cumulative"] = "buffer"
    """What an update trains on: its K traces, or all accepted so far."""
    mode: Literal["sync", "overlap"] = "sync"
    """sync: conversations wait for an update. overlap: they go on with the old weights while it trains."""
    staleness: int = Field(default=1, ge=1)
    """overlap: how many rounds the weights that speak may be behind; then conversations wait."""
    replay: float = Field(default=0.0, ge=0, le=4)
    """Stage-1 examples added to each update, as a share of its own, against forgetting."""


class Decoding(Section):
    """A decoding other than greedy: beam search with so many beams, or sampling."""

    beam: int | None = Field(default=None, ge=2)
    sample: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one(self) -> Decoding:
        if (self.beam is None) == (self.sample is None):
            raise ValueError("name one decoding: greedy, {beam: k} or {sample: temperature}")
        return self

    def sampling(self, base: SamplingParams) -> SamplingParams:
        if self.beam is not None:
            return base.model_copy(update={"temperature": 0.0, "top_p": 1.0, "beams": self.beam})
        return base.model_copy(update={"temperature": self.sample})


def decoding(value: Literal["greedy"] | Decoding, base: SamplingParams) -> SamplingParams:
    """Sampling parameters of `greedy` or another decoding, with the length limits of `base`."""
    if value == "greedy":
        return base.model_copy(update={"temperature": 0.0, "top_p": 1.0})
    return value.sampling(base)


class SelfTrainSettings(TakeSettings):
    turns: int = Field(default=1, ge=1)
    """Each turn's pairs are decoded by the previous turn's model."""
    low: Literal["greedy"] | Decoding = "greedy"
    high: Literal["greedy"] | Decoding = Decoding(beam=10)
    verify: bool = False
    """Keep a pair only where the judge finds the high answer correct and the low one not."""
    loss: Literal["hinge"] = "hinge"
    margin: float = Field(default=0.1, gt=0)
    nll: float = Field(default=0.0, ge=0)
    """Weight of the chosen answer's own likelihood beside the preference."""

    @property
    def pairwise(self) -> PairwiseLoss:
        return PairwiseLoss(name=self.loss, margin=self.margin, nll=self.nll)


class EvaluateSettings(Section):
    sample: int | None = Field(default=None, ge=1)
    """At most so many questions of each held-out set."""
    pairwise: bool = True
    """With a model judge: compare first and last checkpoint in both orders."""


class BudgetSettings(Section):
    usd: float | None = Field(default=None, gt=0)
    tokens: int | None = Field(default=None, gt=0)


class CheckpointsSettings(Section):
    keep: int = Field(default=2, ge=1)
    """The newest so many checkpoints stay on the disk, besides those that a stage ended with or a resumed run needs."""


STAGES_THAT_TRAIN = ("distill", "refine", "self_train")


class Settings(Section):
    """A whole run."""

    name: str = Field(min_length=1, pattern=r"^[\w.-]+$")
    domain: str = Field(min_length=1)
    questions: QuestionsSettings
    student: StudentSettings
    teacher: TeacherSettings
    judge: JudgeSettings
    prompts: PromptsSettings = PromptsSettings()
    distill: DistillSettings = DistillSettings()
    refine: RefineSettings = RefineSettings()
    self_train: SelfTrainSettings = SelfTrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    training: TrainingSettings = TrainingSettings()
    checkpoints: CheckpointsSettings = CheckpointsSettings()
    budget: BudgetSettings = BudgetSettings()

    def training_for(self, stage: TakeSettings) -> TrainingSettings:
        """`training` with what the stage sets otherwise."""
        return TrainingSettings.model_validate({**self.training.model_dump(), **stage.training})

    def refine_goes_on_from(self, stage: TakeSettings) -> bool:
        """Whether an update of stage 2 begins with the optimizer's state that a training of `stage` has left."""
        before, now = self.training_for(stage), self.training_for(self.refine)
        return self.refine.init == "previous" and before.carries_optimizer and now.carries_optimizer

    @model_validator(mode="after")
    def _stage_training_is_valid(self) -> Settings:
        for name in STAGES_THAT_TRAIN:
            try:
                self.training_for(getattr(self, name))
            except ValidationError as error:
                first = error.errors()[0]
                key = ".".join(str(part) for part in first["loc"])
                near = _nearest(key, TrainingSettings.model_fields)
                raise ValueError(f"{name}.training.{key}: {first['msg']}{near}") from error
        return self


def load_settings(content: object, *, base: Path, source: str) -> Settings:
    """Validate `content` (the parsed YAML); relative paths are taken from `base`. Raises `SettingsError`."""
    if not isinstance(content, Mapping):
        raise SettingsError(f"{source}: must hold settings as key: value, found {type(content).__name__}")
    try:
        settings = Settings.model_validate(content)
    except ValidationError as error:
        raise SettingsError(_explain(error, source)) from error
    return _with_absolute_paths(settings, base)


def set_value(content: dict[str, Any], key: str, value: Any) -> None:
    """Set `a.b.c` in nested settings, making the sections on the way. Raises `SettingsError`."""
    *sections, last = key.split(".")
    here = content
    for section in sections:
        inner = here.setdefault(section, {})
        if not isinstance(inner, dict):
            raise SettingsError(f"--set {key}: {section} is a value, not a section")
        here = inner
    here[last] = value


def _with_absolute_paths(settings: Settings, base: Path) -> Settings:
    questions = settings.questions
    training = settings.training
    return settings.model_copy(
        update={
            "questions": questions.model_copy(
                update={
                    "path": base / questions.path,
                    "heldout": {name: base / path for name, path in questions.heldout.items()},
                }
            ),
            "prompts": PromptsSettings(dir=base / settings.prompts.dir) if settings.prompts.dir else settings.prompts,
            **{role: _with_absolute_model(getattr(settings, role), base) for role in ROLES},
            **{stage: _with_absolute_config(getattr(settings, stage), base) for stage in STAGES_THAT_TRAIN},
            "training": training.model_copy(
                update={
                    "config": _absolute_config(training.config, base),
                    "hostfile": base / training.hostfile if training.hostfile else None,
                }
            ),
        }
    )


def _with_absolute_model(role: ModelSettings, base: Path) -> ModelSettings:
    """A model that is a folder beside the settings file is named by its full path; every other name stays as it is."""
    if role.backend in ("transformers", "sglang") and role.model and (base / role.model).is_dir():
        return role.model_copy(update={"model": str((base / role.model).resolve())})
    return role


def _with_absolute_config(stage: TakeSettings, base: Path) -> TakeSettings:
    config = stage.training.get("config")
    if config is None:
        return stage
    return stage.model_copy(update={"training": {**stage.training, "config": _absolute_config(config, base)}})


def _absolute_config(config: str, base: Path) -> str:
    """A file's path, taken from `base`. A preset's name, which has neither folder nor suffix, stays as it is."""
    return config if config == Path(config).stem else str(base / config)


def _explain(error: ValidationError, source: str) -> str:
    lines = []
    for problem in error.errors():
        loc = [part for part in problem["loc"] if not _is_union_tag(part)]
        key = ".".join(str(part) for part in loc)
        if problem["type"] == "extra_forbidden":
            lines.append(f"{source}: unknown setting {key!r}{_nearest(str(loc[-1]), _fields_at(loc[:-1]))}")
        elif problem["type"] == "missing":
            lines.append(f"{source}: the setting {key!r} is missing")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{source}: {key + ': ' if key else ''}{message}")
    return "\n".join(dict.fromkeys(lines))


def _nearest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else (f"; known: {', '.join(known)}" if known else "")


def _is_union_tag(part: object) -> bool:
    """pydantic names the member of a union in an error's location; a user does not write it."""
    return isinstance(part, str) and (part[:1].isupper() or part.startswith(("literal[", "function-", "constrained-")))


def _fields_at(loc: Sequence[int | str]) -> list[str]:
    """The known keys of the section at `loc`."""
    models: list[type[BaseModel]] = [Settings]
    for part in loc:
        models = [inner for model in models if part in model.model_fields
                  for inner in _models_in(model.model_fields[str(part)].annotation)]  # fmt: skip
    return [name for model in models for name in model.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return [model for member in typing.get_args(annotation) for model in _models_in(member)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []
