"""From settings to an open run: everything that its stages need, opened before any call that costs money."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from meteor_agents.abilities import innermost
from meteor_agents.assembly.config_file import dump_config
from meteor_agents.assembly.pinned_models import pin_models
from meteor_agents.assembly.question_sets import SET_APART, limited, open_questions, with_overlaps
from meteor_agents.assembly.role_models import ModelOpener, check_budget, make_ready
from meteor_agents.backends.base_model import base_checkpoint, check_chat, check_trainable
from meteor_agents.backends.registry import open_trainer
from meteor_agents.calls.budget import Budget
from meteor_agents.calls.retrying import Retrying
from meteor_agents.calls.throttled import Throttled
from meteor_agents.evaluation.human_labels import read_labels
from meteor_agents.events import Observer, Observers
from meteor_agents.method.decoding.opening import check_strategies
from meteor_agents.method.judges import VerifierJudge
from meteor_agents.method.templates import Templates
from meteor_agents.models import ChatModel
from meteor_agents.pipeline.cast import FreeJudges, cast_agents, role_models
from meteor_agents.pipeline.checkpoints import BASE
from meteor_agents.pipeline.engine import Drain
from meteor_agents.pipeline.recipes import Recipes
from meteor_agents.pipeline.session import QuestionSets, ServedStudent, Session
from meteor_agents.pipeline.stages.measurement import OVERLAPS
from meteor_agents.settings.run import Settings
from meteor_agents.store.inputs import Inputs
from meteor_agents.store.records import Records
from meteor_agents.store.run_directory import RunDirectory
from meteor_agents.store.store import Store
from meteor_agents.training import Checkpoint, Trainer
from meteor_agents.verifiers import Verifier, open_verifier

BUILTIN_PROMPTS = Path(str(files("meteor_agents.prompts")))


@dataclass(frozen=True, slots=True)
class Plan:
    """What a command will do, and so what must be opened."""

    trains: bool = True
    self_trains: bool = True
    """Stage 3 will decode, so the student's model must be able to decode as its settings say."""
    evaluates: bool = True
    """Held-out questions will be answered and graded, so models that only grade or only are graded are needed."""
    limit: int | None = None
    """The most questions of each stage and held-out set."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Parts of a run that are given as objects instead of being opened from the settings."""

    models: Mapping[str, ChatModel] = field(default_factory=dict)
    """Role (`student`, `teacher`, `judge`) -> its model. It is wrapped in limits, budget and store."""
    verifier: Verifier | None = None
    """The judge, instead of the one that the settings name."""
    trainer: Trainer | None = None


@dataclass(slots=True)
class Opening:
    """Everything a session is opened from."""

    settings: Settings
    directory: RunDirectory
    store: Store
    observer: Observer = field(default_factory=Observers)
    drain: Drain = field(default_factory=Drain)
    parts: Parts = field(default_factory=Parts)

    async def session(self, plan: Plan, closing: AsyncExitStack) -> Session:
        """Open everything that the plan needs; `closing` closes it. Raises `MeteorError` for anything missing."""
        settings = limited(self.settings, plan.limit)
        check_budget(settings)
        templates = open_templates(settings.prompts.dir)
        questions = open_questions(settings, limit=plan.limit, observer=self.observer, records=self.store)
        questions = with_overlaps(questions, self.observer, self.store)
        labels = read_labels(settings.evaluate.human) if settings.evaluate.human else []
        trainer = self._trainer(settings, closing) if plan.trains else None
        budget = Budget(self.store, usd=settings.budget.usd, tokens=settings.budget.tokens)
        asked = role_models(settings, evaluates=plan.evaluates)
        await pin_models(self.store, {name: model.settings for name, model in asked.items()})
        opener = ModelOpener(self.observer, self.store, budget, self.directory.path)
        models = await self._models(opener, settings, plan, closing)
        recorded = {name: opener.recorded(asked[name], model) for name, model in models.items()}
        free = self._free_judges(settings, plan, closing)
        cast = cast_agents(
            settings, templates, lambda model: recorded[model.name], free, evaluates=plan.evaluates
        )
        await self._keep(settings, questions, templates)
        untrained = base_checkpoint(settings.student)
        return Session(
            settings=settings,
            questions=questions,
            cast=cast,
            student=ServedStudent(recorded["student"], innermost(models["student"]), untrained),
            recipes=Recipes(settings, templates.hashes()),
            store=self.store,
            trainer=trainer,
            folder=self.directory.checkpoints,
            observer=self.observer,
            drain=self.drain,
            lineage=stored_lineage(self.store, untrained, self.directory.checkpoints),
            lines={name: model.inner for name, model in models.items() if isinstance(model.inner, Throttled)},
            labels=labels,
        )

    def _trainer(self, settings: Settings, closing: AsyncExitStack) -> Trainer:
        if self.parts.trainer is not None:
            return self.parts.trainer
        check_trainable(settings.student)
        if settings.refine.in_one_chat:
            check_chat(settings.student)
        trainer = open_trainer(settings)
        closing.push_async_callback(trainer.aclose)
        return trainer

    async def _models(
        self, opener: ModelOpener, settings: Settings, plan: Plan, closing: AsyncExitStack
    ) -> dict[str, Retrying]:
        """Model name -> the model behind its limits, ready for its first call."""
        models: dict[str, Retrying] = {}
        for name, asked in role_models(settings, evaluates=plan.evaluates).items():
            given = self.parts.models.get(name)
            if given is None:
                model = opener.open(asked.role, asked.settings)
                closing.push_async_callback(model.aclose)
            else:
                model = opener.limited(asked.role, asked.settings, given)
            await make_ready(model)
            if name == "student" and plan.self_trains:
                check_strategies(settings, innermost(model))
            models[name] = model
        return models

    def _free_judges(self, settings: Settings, plan: Plan, closing: AsyncExitStack) -> FreeJudges:
        if self.parts.verifier is not None:
            return FreeJudges(VerifierJudge(self.parts.verifier))
        stack = closing.enter_context(ExitStack())
        return open_free_judges(settings, stack, evaluates=plan.evaluates)

    async def _keep(self, settings: Settings, questions: QuestionSets, templates: Templates) -> None:
        """Store the run's inputs, once all of them are accepted."""
        if questions.overlaps is not None:
            await self.store.set_meta(OVERLAPS, questions.overlaps.model_dump(mode="json"))
        await self.store.set_meta("templates", templates.hashes())
        if questions.set_apart is not None:
            await self.store.set_meta(SET_APART, questions.set_apart.model_dump(mode="json"))
        self.directory.write_config(dump_config(self.settings))
        Inputs(self.directory.path).keep(settings, settings.base, templates, questions.heldout)


def open_templates(folder: Path | None) -> Templates:
    """The built-in templates; a file in `folder` replaces the one of the same name."""
    return Templates(BUILTIN_PROMPTS, folder)


def open_free_judges(settings: Settings, closing: ExitStack, *, evaluates: bool = True) -> FreeJudges:
    """The verifiers that the settings name, as judges. Raises `SettingsError`."""
    judge, checker = settings.judge, settings.evaluate.verifier
    if judge.verifier:
        return FreeJudges(open_verifier_judge(judge.verifier, judge.options, settings.base, closing))
    if checker and evaluates:
        return FreeJudges(None, open_verifier_judge(checker.verifier, checker.options, settings.base, closing))
    return FreeJudges()


def open_verifier_judge(name: str, options: Mapping[str, object], base: Path, closing: ExitStack) -> VerifierJudge:
    """A verifier as a judge; its relative paths start at `base`. Raises `SettingsError`."""
    verifier = open_verifier(name, options, base)
    closing.callback(verifier.close)
    return VerifierJudge(verifier)


def stored_lineage(records: Records, base: Checkpoint, checkpoints: Path) -> dict[str, Checkpoint]:
    """The checkpoints that earlier commands of this run arrived at and whose folders exist."""
    known = records.lineage()
    lineage = {BASE: base}
    if known.get(BASE) != base.version:
        return lineage
    for label, version in known.items():
        folder = checkpoints / version
        if label != BASE and version == base.version:
            lineage[label] = base
        elif label != BASE and folder.exists():
            lineage[label] = Checkpoint(version=version, path=folder)
    return lineage
