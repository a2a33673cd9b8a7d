"""From settings to objects: models with their limits, agents, question sets, the pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from meteor_agents import prompts as builtin_prompts
from meteor_agents.agents import Judge, ModelJudge, ModelTeacher, Student, Teacher, VerifierJudge, Voice
from meteor_agents.backends.reference import NAME as REFERENCE
from meteor_agents.backends.reference import ReferenceTeacher
from meteor_agents.backends.registry import (
    Surroundings,
    base_checkpoint,
    check_trainable,
    costs_money,
    open_model,
    open_trainer,
)
from meteor_agents.calls import Budget, Price, RecordedModel
from meteor_agents.engine import Drain
from meteor_agents.errors import QuestionsError, SettingsError
from meteor_agents.events import CallRetried, Note, Observer
from meteor_agents.limits import Retrying, Throttled, innermost
from meteor_agents.messages import Question
from meteor_agents.models import ChatModel, DecodesBeams, LoadsWeights, Opens
from meteor_agents.pipeline import BASE, Cast, Pipeline, QuestionSets
from meteor_agents.questions import overlap, read_questions, split_questions
from meteor_agents.run_directory import RunDirectory
from meteor_agents.settings import ModelSettings, Settings, decoding
from meteor_agents.store import Store
from meteor_agents.templates import Templates
from meteor_agents.training import Checkpoint
from meteor_agents.verifiers import Verifier, open_verifier

BUILTIN_PROMPTS = Path(builtin_prompts.__file__).resolve().parent


def open_templates(folder: Path | None) -> Templates:
    return Templates(BUILTIN_PROMPTS, folder)


def open_questions(settings: Settings, *, limit: int | None, observer: Observer) -> QuestionSets:
    """Read and split the questions; a held-out question that occurs in training is refused.

    `limit` caps the training questions, which every stage takes its own from, and each held-out set.
    """
    given = settings.questions
    questions = read_questions(given.path, given.fields)
    split = split_questions(questions, holdout=given.holdout, gate=given.gate, seed=given.seed)
    heldout: dict[str, list[Question]] = {"held out": split.holdout} if split.holdout else {}
    for name, path in given.heldout.items():
        if name in heldout:
            raise SettingsError(f"questions.heldout: the name {name!r} is taken by the questions held out by number")
        heldout[name] = read_questions(path, given.fields)
    for name, held in heldout.items():
        leaked = overlap([*split.train, *split.gate], held)
        if leaked:
            raise QuestionsError(
                f"held-out set {name!r}: {len(leaked)} of its questions occur in {given.path} as well, "
                f"the first is {leaked[0].id!r}; remove them from one of the two"
            )
    cap = settings.evaluate.sample if limit is None else min(limit, settings.evaluate.sample or limit)
    if not heldout:
        observer.on_event(Note("no held-out questions: nothing will be measured (questions.holdout or .heldout)"))
    return QuestionSets(
        train=split.train,
        gate=split.gate[:limit],
        heldout={name: held[:cap] for name, held in heldout.items()},
    )


def limited(settings: Settings, limit: int | None) -> Settings:
    """Settings in which every stage takes at most `limit` questions."""
    if limit is None:
        return settings
    stages = {
        name: (stage := getattr(settings, name)).model_copy(
            update={"questions": min(limit, stage.questions or limit), "skip": min(stage.skip, limit * i)}
        )
        for i, name in enumerate(("distill", "refine", "self_train"))
    }
    return settings.model_copy(update=stages)


def check_budget(settings: Settings) -> None:
    """A budget in dollars can only be kept if every role that may cost money has a price. Raises `SettingsError`."""
    if settings.budget.usd is None:
        return
    for role in ("student", "teacher", "judge"):
        model: ModelSettings = getattr(settings, role)
        if costs_money(model) and model.price is None:
            raise SettingsError(
                f"{role}.price is missing, so budget.usd cannot be kept: give US dollars per million tokens, "
                f"price: {{input: 2.5, output: 10}} (0 and 0 for a server of your own)"
            )


def open_role(
    role: str, settings: ModelSettings, observer: Observer, store: Store | None = None, logs: Path | None = None
) -> ChatModel:
    """The role's model behind its limits: retry around throttle around the model. Retries are counted in the store.

    A server that the model launches writes to the folder `logs`.
    """
    model = open_model(role, settings, Surroundings(logs, lambda sentence: observer.on_event(Note(sentence))))

    def on_retry(reason: str, wait_s: float) -> None:
        if store is not None:
            store.count_soon(role, "retried")
        observer.on_event(CallRetried(role, reason, wait_s))

    return Retrying(Throttled(model, settings.limits), settings.limits, on_retry=on_retry)


async def make_ready(model: ChatModel) -> None:
    """Start or find what the model needs before its first call. Raises `MeteorError`."""
    bare = innermost(model)
    if isinstance(bare, Opens):
        await bare.open()


def open_judge_verifier(settings: Settings, base: Path) -> Verifier:
    assert settings.judge.verifier is not None
    return open_verifier(settings.judge.verifier, settings.judge.options, base)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command is going to do, as far as it decides what has to be opened."""

    train: bool
    beams: bool
    """Stage 3 will decode."""
    limit: int | None = None


async def open_pipeline(
    settings: Settings,
    base: Path,
    directory: RunDirectory,
    store: Store,
    observer: Observer,
    drain: Drain,
    wanted: Wanted,
    closing: AsyncExitStack,
) -> Pipeline:
    """Open everything that the run needs, so that what is missing is said before any paid call."""
    settings = limited(settings, wanted.limit)
    check_budget(settings)
    templates = open_templates(settings.prompts.dir)
    questions = open_questions(settings, limit=wanted.limit, observer=observer)
    if wanted.train:
        check_trainable(settings.student)
    trainer = open_trainer(settings) if wanted.train else None
    budget = Budget(store, usd=settings.budget.usd, tokens=settings.budget.tokens)
    untrained = base_checkpoint(settings.student)

    student_model = open_role("student", settings.student, observer, store, directory.path)
    closing.push_async_callback(student_model.aclose)
    await make_ready(student_model)
    bare = innermost(student_model)
    server = bare if isinstance(bare, LoadsWeights) else None
    if wanted.beams:
        _check_beams(settings, bare)

    def voice(role: str, role_settings: ModelSettings, model: ChatModel, *, changes: bool = False) -> Voice:
        recorded = RecordedModel(
            model,
            role=role,
            identity=role_settings.identity,
            store=store,
            budget=budget,
            observer=observer,
            price=Price(role_settings.price.input, role_settings.price.output) if role_settings.price else None,
            weights=_weights_of(server) if changes and server is not None else None,
        )
        return Voice(recorded, templates, settings.domain, role_settings.sampling)

    student_voice = voice("student", settings.student, student_model, changes=True)
    teacher: Teacher
    if settings.teacher.backend == REFERENCE:
        teacher = ReferenceTeacher()
    else:
        teacher_model = open_role("teacher", settings.teacher, observer, store, directory.path)
        closing.push_async_callback(teacher_model.aclose)
        await make_ready(teacher_model)
        teacher = ModelTeacher(voice("teacher", settings.teacher, teacher_model))
    judge: Judge
    if settings.judge.verifier:
        verifier = open_judge_verifier(settings, base)
        closing.callback(verifier.close)
        judge = VerifierJudge(verifier)
    else:
        judge_model = open_role("judge", settings.judge, observer, store, directory.path)
        closing.push_async_callback(judge_model.aclose)
        await make_ready(judge_model)
        judge = ModelJudge(voice("judge", settings.judge, judge_model))

    assert isinstance(student_voice.speaker, RecordedModel)
    await store.set_meta("templates", templates.hashes())
    return Pipeline(
        settings=settings,
        questions=questions,
        cast=Cast(Student(student_voice), teacher, judge, student_voice.speaker, server),
        templates=templates,
        store=store,
        trainer=trainer,
        checkpoints=directory.checkpoints,
        observer=observer,
        drain=drain,
        base=untrained,
        lineage=stored_lineage(store, untrained, directory.checkpoints),
    )


def _weights_of(server: LoadsWeights) -> Callable[[], str]:
    return lambda: server.weights


def stored_lineage(store: Store, base: Checkpoint, checkpoints: Path) -> dict[str, Checkpoint]:
    """The checkpoints that earlier commands of this run arrived at, as far as their folders are there."""
    rows = store.read("SELECT value FROM meta WHERE key = 'lineage'")
    known = json.loads(rows[0][0]) if rows else {}
    lineage = {BASE: base}
    if known.get(BASE, {}).get("version") != base.version:
        return lineage
    for label, content in known.items():
        version = content["version"]
        folder = checkpoints / version
        if label != BASE and version == base.version:
            lineage[label] = base
        elif label != BASE and folder.exists():
            lineage[label] = Checkpoint(version=version, path=folder)
    return lineage


def _check_beams(settings: Settings, student: object) -> None:
    beams = max(
        decoding(which, settings.student.sampling).beams
        for which in (settings.self_train.low, settings.self_train.high)
    )
    if beams > 1 and not isinstance(student, DecodesBeams):
        raise SettingsError(
            f"self_train: the student's backend {settings.student.backend} has no beam search; "
            "use self_train.high={sample: 1.0}, or backend: transformers"
        )
