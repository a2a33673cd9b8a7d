"""From settings to objects: models with their limits, agents, question sets, the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from meteor_agents import prompts as builtin_prompts
from meteor_agents.abilities import LoadsWeights, Opens, ReportsQueue, innermost
from meteor_agents.assembly.evaluators import open_evaluators
from meteor_agents.backends.base_model import base_checkpoint
from meteor_agents.backends.options import Surroundings
from meteor_agents.backends.registry import check_chat, check_trainable, costs_money, open_model, open_trainer
from meteor_agents.calls.limits import Retrying, Throttled
from meteor_agents.calls.recorded import Budget, Budgeted, Price, RecordedModel
from meteor_agents.calls.server import Server
from meteor_agents.calls.tally import Tally
from meteor_agents.data.near_duplicates import NearDuplicatesBySet, find_near_duplicates_by_set, repeated_questions
from meteor_agents.data.questions import read_questions
from meteor_agents.data.splitting import SetApart, split_questions
from meteor_agents.errors import QuestionsError, SettingsError
from meteor_agents.evaluation.human_labels import read_labels
from meteor_agents.events import CallRetried, Note, Observer, OverlapFound
from meteor_agents.messages import Question
from meteor_agents.method.agents import Judge, ModelJudge, ModelTeacher, Student, Teacher, VerifierJudge, Voice
from meteor_agents.method.reference_teacher import NAME as REFERENCE
from meteor_agents.method.reference_teacher import ReferenceTeacher
from meteor_agents.method.strategies import check_strategies
from meteor_agents.method.templates import Templates
from meteor_agents.models import ChatModel
from meteor_agents.pipeline.checkpoints import BASE
from meteor_agents.pipeline.engine import Drain
from meteor_agents.pipeline.measurement import OVERLAPS
from meteor_agents.pipeline.pipeline import Cast, Pipeline, QuestionSets
from meteor_agents.settings.roles import ROLES, ModelSettings
from meteor_agents.settings.run import Settings
from meteor_agents.store.run_directory import RunDirectory
from meteor_agents.store.store import Records, Store
from meteor_agents.training import Checkpoint
from meteor_agents.verifiers import Verifier, open_verifier

BUILTIN_PROMPTS = Path(builtin_prompts.__file__).resolve().parent


def open_templates(folder: Path | None) -> Templates:
    return Templates(BUILTIN_PROMPTS, folder)


SET_APART = "set apart"
"""The store's name for the ids that a run set apart from its training questions."""


def open_questions(
    settings: Settings, *, limit: int | None, observer: Observer, records: Records | None = None
) -> QuestionSets:
    """Read and split the questions; a held-out question that occurs in training is refused.

    `limit` caps the training questions, which every stage takes its own from, and each held-out set. What the run of
    `records` has set apart stays so, also when questions were added since.
    """
    given = settings.questions
    questions = read_questions(given.path, given.fields)
    before = records.meta(SET_APART) if records else None
    split = split_questions(
        questions,
        holdout=given.holdout,
        gate=given.gate,
        seed=given.seed,
        before=SetApart.model_validate(before) if before else None,
    )
    heldout: dict[str, Sequence[Question]] = {"held out": split.holdout} if split.holdout else {}
    for name, path in given.heldout.items():
        if name in heldout:
            raise SettingsError(f"questions.heldout: the name {name!r} is taken by the questions held out by number")
        heldout[name] = read_questions(path, given.fields)
    for name, held in heldout.items():
        leaked = repeated_questions(chain(split.train, split.gate), held)
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
        heldout={name: list(held[:cap]) for name, held in heldout.items()},
        set_apart=split.set_apart(holdout=given.holdout, gate=given.gate, seed=given.seed),
    )


def with_overlaps(questions: QuestionSets, observer: Observer, records: Records | None = None) -> QuestionSets:
    """The same questions, with what nearly repeats a training question named, and said where there is any."""
    if not questions.heldout:
        return questions
    before = records.meta(OVERLAPS) if records else None
    found = find_near_duplicates_by_set(
        [questions.train, questions.gate], questions.heldout, NearDuplicatesBySet.model_validate(before) if before else None
    )
    for name, one in found.sets.items():
        if one.near:
            observer.on_event(OverlapFound(name, one.questions, one.exact, len(one.near), one.sentence(name)))
    return replace(questions, overlaps=found)


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
    models: dict[str, ModelSettings] = {role: getattr(settings, role) for role in ROLES}
    models |= {f"evaluate.models {model.name}": model for model in settings.evaluate.models}
    models |= {f"evaluate.judges {model.identity}": model for model in settings.evaluate.judges}
    for role, model in models.items():
        if costs_money(model) and model.price is None:
            raise SettingsError(
                f"{role}.price is missing, so budget.usd cannot be kept: give US dollars per million tokens, "
                f"price: {{input: 2.5, output: 10}} (0 and 0 for a server of your own)"
            )


class Servers:
    """The servers of a run, by address: roles with the same one share its concurrency, its pauses and its breaker."""

    def __init__(self) -> None:
        self.known: dict[str, Server] = {}

    def of(self, settings: ModelSettings, model: ChatModel) -> Server | None:
        """None for a model without a server."""
        address = _address(settings)
        if address is None:
            return None
        server = self.known.setdefault(address, Server(address, settings.limits.concurrency))
        server.raise_ceiling(settings.limits.concurrency)
        if isinstance(model, ReportsQueue):
            server.report_queue(model)
        return server


def _address(settings: ModelSettings) -> str | None:
    """Of the server, or of the several that share the work; one that is launched has none yet."""
    base_url = settings.options.get("base_url")
    if isinstance(base_url, list | tuple):
        return ", ".join(sorted(str(url).rstrip("/") for url in base_url))
    if isinstance(base_url, str):
        return base_url.rstrip("/")
    return f"launched for {settings.identity}" if "launch" in settings.options else None


def open_role(
    role: str,
    settings: ModelSettings,
    observer: Observer,
    store: Store | None = None,
    budget: Budget | None = None,
    servers: Servers | None = None,
    logs: Path | None = None,
) -> Retrying:
    """The role's model behind its limits: retry around throttle around the model. Retries are counted in the store.

    The budget is looked at last, so that what waited for its turn meanwhile is not sent. A server that the model launches
    writes to the folder `logs`.
    """
    model = open_model(role, settings, Surroundings(logs, lambda sentence: observer.on_event(Note(sentence))))
    server = (servers or Servers()).of(settings, model)
    if budget is not None:
        model = Budgeted(model, budget)

    def on_retry(reason: str, wait_s: float) -> None:
        if store is not None:
            store.count_soon(role, "retried")
        observer.on_event(CallRetried(role, reason, wait_s))

    return Retrying(Throttled(model, settings.limits, server), settings.limits, on_retry=on_retry)


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
    evaluate: bool = True
    """Held-out questions will be answered and judged."""
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
    tally: Tally,
) -> Pipeline:
    """Open everything that the run needs, so that what is missing is said before any paid call.

    `tally` gets to know the limited models, for what only they can tell.
    """
    settings = limited(settings, wanted.limit)
    check_budget(settings)
    templates = open_templates(settings.prompts.dir)
    questions = open_questions(settings, limit=wanted.limit, observer=observer, records=store)
    questions = with_overlaps(questions, observer, store)
    labels = read_labels(settings.evaluate.human) if settings.evaluate.human else []
    if wanted.train:
        check_trainable(settings.student)
        if settings.refine.in_one_chat:
            check_chat(settings.student)
    trainer = open_trainer(settings) if wanted.train else None
    if trainer is not None:
        closing.push_async_callback(trainer.aclose)
    budget = Budget(store, usd=settings.budget.usd, tokens=settings.budget.tokens)
    untrained = base_checkpoint(settings.student)

    servers = Servers()
    lines: list[Throttled] = []

    async def limited_model(role: str, role_settings: ModelSettings) -> ChatModel:
        model = open_role(role, role_settings, observer, store, budget, servers, directory.path)
        closing.push_async_callback(model.aclose)
        await make_ready(model)
        assert isinstance(model.inner, Throttled)
        lines.append(model.inner)
        tally.limited.setdefault(role, model.inner)  # of a panel, the first judge
        return model

    student_model = await limited_model("student", settings.student)
    bare = innermost(student_model)
    server = bare if isinstance(bare, LoadsWeights) else None
    if wanted.beams:
        check_strategies(settings, bare)

    def voice(role: str, role_settings: ModelSettings, model: ChatModel, *, changes: bool = False) -> Voice:
        recorded = RecordedModel(
            model,
            role=role,
            identity=role_settings.identity,
            store=store,
            budget=budget,
            observer=observer,
            price=price_of(role_settings),
            weights=_weights_of(server) if changes and server is not None else None,
            options=role_settings.deciding_options,
        )
        return Voice(recorded, templates, settings.domain, role_settings.sampling)

    student_voice = voice("student", settings.student, student_model, changes=True)
    teacher: Teacher
    if settings.teacher.backend == REFERENCE:
        teacher = ReferenceTeacher()
    else:
        teacher = ModelTeacher(voice("teacher", settings.teacher, await limited_model("teacher", settings.teacher)))
    judge: Judge
    if settings.judge.verifier:
        verifier = open_judge_verifier(settings, base)
        closing.callback(verifier.close)
        judge = VerifierJudge(verifier)
    else:
        judge = ModelJudge(voice("judge", settings.judge, await limited_model("judge", settings.judge)))

    async def opened(role: str, given: ModelSettings) -> Voice:
        return voice(role, given, await limited_model(role, given))

    evaluators = await open_evaluators(settings, base, judge, labels, opened, closing) if wanted.evaluate else None

    assert isinstance(student_voice.speaker, RecordedModel)
    if questions.overlaps is not None:
        await store.set_meta(OVERLAPS, questions.overlaps.model_dump(mode="json"))
    await store.set_meta("templates", templates.hashes())
    if questions.set_apart is not None:
        await store.set_meta(SET_APART, questions.set_apart.model_dump(mode="json"))
    return Pipeline(
        settings=settings,
        questions=questions,
        cast=Cast(
            Student(student_voice, in_one_chat=settings.refine.in_one_chat),
            teacher,
            judge,
            student_voice.speaker,
            server,
        ),
        templates=templates,
        store=store,
        trainer=trainer,
        checkpoints=directory.checkpoints,
        observer=observer,
        drain=drain,
        base=untrained,
        lineage=stored_lineage(store, untrained, directory.checkpoints),
        lines=lines,
        evaluators=evaluators,
    )


def _weights_of(server: LoadsWeights) -> Callable[[], str]:
    return lambda: server.weights


def price_of(settings: ModelSettings) -> Price | None:
    """None where calls may be billed and no one said how."""
    if settings.price is not None:
        return Price(settings.price.input, settings.price.output)
    return None if costs_money(settings) else Price(0, 0)


def stored_lineage(records: Records, base: Checkpoint, checkpoints: Path) -> dict[str, Checkpoint]:
    """The checkpoints that earlier commands of this run arrived at, as far as their folders are there."""
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
