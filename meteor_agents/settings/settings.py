"""The settings of a run (the YAML file), validated: unknown keys are refused with the nearest known one named."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, Union
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from meteor_agents.errors import SettingsError
from meteor_agents.messages import Question
from meteor_agents.models import SamplingParams
from meteor_agents.settings.limits import Limits
from meteor_agents.settings.profiles import under
from meteor_agents.training import LossName, PairwiseLoss, TrainingSettings

ROLES = ("student", "teacher", "judge")
REFERENCE = "reference"
"""The backend of a teacher that answers with the references of the data."""
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


class LossSettings(TakeSettings):
    """A stage that trains on preference pairs, or may. `PairwiseLoss` says what the parameters mean."""

    loss: LossName = "hinge"
    margin: float | None = Field(default=None, gt=0)
    beta: float | None = Field(default=None, gt=0)
    label_smoothing: float | None = Field(default=None, ge=0, lt=0.5)
    """Of these three a loss has some, with defaults of its own; one that it lacks is refused."""
    nll: float = Field(default=0.0, ge=0)
    """Weight of the chosen answer's own likelihood beside the preference."""
    length_desensitise: float = Field(default=1.0, ge=0, le=1)
    """Weight of what is only longer in the longer of two answers: 1 counts it whole, 0 not at all."""

    @property
    def pairwise(self) -> PairwiseLoss:
        names = ("margin", "beta", "label_smoothing", "nll", "length_desensitise")
        return PairwiseLoss.model_validate({"name": self.loss, **{name: getattr(self, name) for name in names}})

    @model_validator(mode="after")
    def _loss_is_valid(self) -> Self:
        try:
            _ = self.pairwise
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
        return self


class RefineSettings(LossSettings):
    iterations: int = Field(default=3, ge=1)
    """N: tries for one question."""
    update_every: int = Field(default=10, ge=1)
    """K: accepted traces for one update of the student."""
    guide_from: Literal["judge", "teacher"] = "judge"
    conversion: Literal["final", "history", "chat", "pairs"] = "final"
    """What a trace teaches: final, the accepted reply; history, all tries with what was wrong, as one reply; chat, the
    tries as one chat, in which the student is then also asked; pairs, the accepted reply over the rejected ones."""
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

    @property
    def in_one_chat(self) -> bool:
        return self.conversion == "chat"

    @model_validator(mode="after")
    def _loss_and_rows_agree(self) -> Self:
        pairs = self.conversion == "pairs"
        if pairs and self.replay:
            raise ValueError("replay adds examples, which cannot be trained on together with pairs; use nll instead")
        of_the_loss = LossSettings.model_fields.keys() - TakeSettings.model_fields.keys()
        given = [name for name in of_the_loss if getattr(self, name) != LossSettings.model_fields[name].default]
        if given and not pairs:
            raise ValueError(f"{min(given)} belongs to conversion: pairs; this conversion trains on single replies")
        return self


class Decoding(Section):
    """How a reply comes about, other than greedily: one of six strategies, with its own options."""

    sample: float | None = Field(default=None, gt=0)
    """One sample at this temperature."""
    beam: int | None = Field(default=None, ge=2)
    """The best of beam search with so many beams."""
    best_of: int | None = Field(default=None, ge=2)
    """The best of so many samples."""
    vote: int | None = Field(default=None, ge=3)
    """What most of so many samples say (arXiv 2203.11171)."""
    revise: int | None = Field(default=None, ge=1)
    """A greedy draft, then so many times the student's own critique of it and a new draft."""
    contrast: str | None = None
    """What the student finds likelier than a weaker model does: `base` (itself, untrained) or a model folder."""
    by: Literal["judge", "verifier", "likelihood", "answer", "text"] | None = None
    """best_of: judge (default), verifier or likelihood (mean log-probability). vote: answer (most frequent final answer) or
    text (the reply most like the others); by default answer with a verifier and text without."""
    temperature: float | None = Field(default=None, gt=0)
    """Of the samples of best_of and vote; the student's own when absent."""
    alpha: float | None = Field(default=None, gt=0, le=1)
    """contrast: what share of the likeliest token's probability a token needs; 0.1."""
    beta: float | None = Field(default=None, gt=0)
    """contrast: weight of the weaker model; 0.5."""

    @model_validator(mode="after")
    def _one(self) -> Decoding:
        named = [name for name in STRATEGIES if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError(
                "name one decoding: greedy, {sample: temperature}, {beam: k}, {best_of: n, by: judge}, {vote: n}, "
                "{revise: n} or {contrast: base}"
            )
        for option in ("by", "temperature", "alpha", "beta"):
            if getattr(self, option) is not None and option not in STRATEGIES[named[0]]:
                raise ValueError(f"{named[0]} has no option {option!r}")
        if self.by is not None and self.by not in STRATEGIES[named[0]]["by"]:
            raise ValueError(f"{named[0]} goes by {' or '.join(STRATEGIES[named[0]]['by'])}, not by {self.by}")
        return self

    @property
    def samples(self) -> int:
        """How many samples are chosen from; 1 where nothing is."""
        return self.best_of or self.vote or 1

    def sampling(self, base: SamplingParams) -> SamplingParams:
        """Of its first, or only, call; the contrast apart."""
        if self.beam is not None:
            return base.model_copy(update={**_GREEDY, "beams": self.beam})
        temperature = self.sample or self.temperature
        if self.samples == 1 and temperature is None:
            return base.model_copy(update=_GREEDY)
        return base.model_copy(update={"temperature": temperature or base.temperature})


STRATEGIES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "sample": {},
    "beam": {},
    "best_of": {"by": ("judge", "verifier", "likelihood"), "temperature": ()},
    "vote": {"by": ("answer", "text"), "temperature": ()},
    "revise": {},
    "contrast": {"alpha": (), "beta": ()},
}
"""Strategy -> its options, with the words that they may be."""

_GREEDY = {"temperature": 0.0, "top_p": 1.0, "seed": None}


def decoding(value: Literal["greedy"] | Decoding, base: SamplingParams) -> SamplingParams:
    """Sampling parameters of `greedy` or another decoding, with the length limits of `base`."""
    if value == "greedy":
        return base.model_copy(update=_GREEDY)
    return value.sampling(base)


class SelfTrainSettings(LossSettings):
    profile: Literal["paper", "best"] | None = None
    """Settings of this section by name (`profiles.PROFILES`); what is given beside it goes before."""
    turns: int = Field(default=1, ge=1)
    """Each turn's pairs are decoded by the previous turn's model."""
    stop_early: bool = False
    """Stop after a turn that gets no more gate questions right than the best one before, and keep that one's student."""
    low: Literal["greedy"] | Decoding = "greedy"
    high: Literal["greedy"] | Decoding = Decoding(beam=10)
    verify: bool | Literal["judge", "verifier", "self"] = False
    """Keep a pair only where the high answer is found correct and the low one not: by the judge (true), by the judge,
    which must be a verifier, or by the student itself, which does not see the reference."""
    near_equal: float = Field(default=0.95, gt=0, le=1)
    """Final answers with this share of words and word pairs in common are too much alike to be a pair."""
    max_length_ratio: float | None = Field(default=None, ge=1)
    """Leave out pairs of which one reply has more than so many times the other's characters, so that length is no signal."""

    @model_validator(mode="before")
    @classmethod
    def _over_the_profile(cls, given: Any) -> Any:
        return under(given) if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _two_decodings(self) -> SelfTrainSettings:
        if self.low == self.high:
            raise ValueError("low and high are the same decoding; no pair could have a preference")
        return self


DECIDES_PAIRS = ("low", "high", "verify", "near_equal", "max_length_ratio")
"""Settings of `self_train` that decide which pairs there are."""


class RivalSettings(ModelSettings):
    """Another model that is evaluated beside the student."""

    name: str = Field(min_length=1)
    """What tables call it."""

    @field_validator("name")
    @classmethod
    def _no_checkpoints_name(cls, name: str) -> str:
        if name in CHECKPOINT_NAMES:
            raise ValueError(f"{name!r} is what a checkpoint of the run is called; choose another name")
        return name

    @property
    def version(self) -> str:
        """What the store calls it: another name when anything that decides its replies has changed."""
        content = [self.identity, self.deciding_options, self.sampling.model_dump(mode="json")]
        return (
            f"{self.name}-{hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:8]}"
        )

    def greedy(self, students: SamplingParams) -> SamplingParams:
        """How it decodes when it is evaluated: as the student does, but for what is set for itself."""
        return decoding("greedy", self.sampling if "sampling" in self.model_fields_set else students)


EVALUATED = "evaluated"
"""The role of the models that are evaluated beside the student (`evaluate.models`)."""
CHECKPOINT_NAMES = ("base", "finetune", "refine", "self-train")


class VerifierSettings(BaseModel):
    """A verifier with its options, as in `judge`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    verifier: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class EvaluateSettings(Section):
    sample: int | None = Field(default=None, ge=1)
    """At most so many questions of each held-out set."""
    pairwise: bool = True
    """With a model judge: compare first and last checkpoint, and the last with every one of `models`, in both orders."""
    models: list[RivalSettings] = Field(default_factory=list)
    """More models that answer the held-out questions: APIs, servers, folders."""
    judges: list[ModelSettings] = Field(default_factory=list)
    """More model judges, which only evaluate: with them the figures are the panel's means."""
    verifier: VerifierSettings | None = None
    """With a model judge: replies are checked by a verifier too."""
    repeat: int = Field(default=10, ge=0)
    """Questions of each held-out set that model judges score a second time, to see how steady they are."""
    human: Path | None = None
    """JSONL or CSV of people's findings: id, label (correct, incorrect or 1 to 10) and, if need be, reply."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        for what, names in (("models", [m.name for m in self.models]), ("judges", [j.identity for j in self.judges])):
            if double := next((name for name in names if names.count(name) > 1), None):
                raise ValueError(f"two {what} are named {double!r}; give one another name")
        return self


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
    retry_failed: bool = True
    """Ask failed questions of a finished stage again when the command is repeated."""
    fail_on: float = Field(default=0.5, ge=0, le=1)
    """A stage in which a larger share of the questions failed ends the command with exit code 1."""

    def training_for(self, stage: TakeSettings) -> TrainingSettings:
        """`training` with what the stage sets otherwise."""
        return TrainingSettings.model_validate({**self.training.model_dump(), **stage.training})

    def refine_goes_on_from(self, stage: TakeSettings) -> bool:
        """Whether an update of stage 2 begins with the optimizer's state that a training of `stage` has left."""
        before, now = self.training_for(stage), self.training_for(self.refine)
        return self.refine.init == "previous" and before.carries_optimizer and now.carries_optimizer

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
            **{stage: _with_absolute_config(getattr(settings, stage), base) for stage in ("distill", "refine")},
            "self_train": _with_absolute_contrast(settings.self_train, base),
            "training": training.model_copy(
                update={
                    "config": _absolute_config(training.config, base),
                    "hostfile": base / training.hostfile if training.hostfile else None,
                }
            ),
            "evaluate": _with_absolute_evaluation(settings.evaluate, base),
        }
    )


def _with_absolute_model(role: ModelSettings, base: Path) -> ModelSettings:
    """A model that is a folder beside the settings file is named by its full path; every other name stays as it is."""
    if role.backend in ("transformers", "sglang") and role.model and (base / role.model).is_dir():
        return role.model_copy(update={"model": str((base / role.model).resolve())})
    return role


def _with_absolute_evaluation(evaluate: EvaluateSettings, base: Path) -> EvaluateSettings:
    return evaluate.model_copy(
        update={
            "models": [_with_absolute_model(model, base) for model in evaluate.models],
            "judges": [_with_absolute_model(model, base) for model in evaluate.judges],
            "human": base / evaluate.human if evaluate.human else None,
        }
    )


def _with_absolute_contrast(stage: SelfTrainSettings, base: Path) -> TakeSettings:
    """The weaker model of a contrast is a folder like the student's own."""
    found: dict[str, Decoding] = {}
    for side in ("low", "high"):
        given: Literal["greedy"] | Decoding = getattr(stage, side)
        if given != "greedy" and given.contrast and (base / given.contrast).is_dir():
            found[side] = given.model_copy(update={"contrast": str((base / given.contrast).resolve())})
    return _with_absolute_config(stage.model_copy(update=found), base)


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
