"""The stages in order: conversations, updates of the student with their gate, evaluation. Everything resumes.

Traces, rounds and results are stored under the stage's recipe (`recipes`), so an unchanged run finds all its work again
and an edited one finds whatever the edit leaves valid.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from meteor_agents.abilities import FreesMemory, LoadsWeights
from meteor_agents.calls.recorded import RecordedModel
from meteor_agents.data.near_duplicates import Overlaps
from meteor_agents.data.question_pool import QuestionPool
from meteor_agents.data.questions import SetApart
from meteor_agents.errors import (
    BudgetReached,
    CredentialsError,
    MeteorError,
    ModelError,
    NothingToTrainError,
    UsageError,
)
from meteor_agents.evaluation.grading import Result, examine, fingerprint
from meteor_agents.events import (
    Note,
    Observer,
    QuestionFinished,
    QuestionLate,
    StageFinished,
    StageStarted,
    TrainingNote,
    UpdateFinished,
)
from meteor_agents.messages import Question, Status
from meteor_agents.method import conversations
from meteor_agents.method.agents import Judge, Student, Teacher
from meteor_agents.method.conversations import DISTILL, REFINE, SELF_TRAIN
from meteor_agents.method.templates import Templates
from meteor_agents.method.training_rows import TrainingRows, distillation_rows
from meteor_agents.pipeline.checkpoints import BASE, LINEAGE, needed, prune
from meteor_agents.pipeline.engine import Drain, Line, Window, converse
from meteor_agents.pipeline.gate import GATE, Gate, judge_candidate, speaks_unlike
from meteor_agents.pipeline.measurement import Evaluators, Measurement, each
from meteor_agents.pipeline.recipes import FINETUNE, Recipes
from meteor_agents.pipeline.self_training import SelfTraining
from meteor_agents.pipeline.updates import Updates
from meteor_agents.settings.settings import Settings, TakeSettings, decoding
from meteor_agents.store.store import Round, Store
from meteor_agents.traces import Outcome, Trace
from meteor_agents.training import Checkpoint, Conversation, Example, Trainer, TrainingJob, TrainingReport


@dataclass(frozen=True, slots=True)
class QuestionSets:
    """The questions of a run, already split; no held-out question is in `train`."""

    train: QuestionPool
    gate: Sequence[Question]
    heldout: dict[str, Sequence[Question]]
    set_apart: SetApart | None = None
    overlaps: Overlaps | None = None
    """What nearly repeats a training question; None where that was not looked for."""


@dataclass(frozen=True, slots=True)
class Cast:
    """The agents of a run, and the student's model where its weights can be replaced."""

    student: Student
    teacher: Teacher
    judge: Judge
    student_calls: RecordedModel
    student_server: LoadsWeights | None


@dataclass(slots=True)
class Pipeline:
    """One run. `lineage` maps where a checkpoint comes from (base, finetune, refine, self-train) to the checkpoint."""

    settings: Settings
    questions: QuestionSets
    cast: Cast
    templates: Templates
    store: Store
    trainer: Trainer | None
    """None: conversations only (`--no-train`)."""
    checkpoints: Path
    observer: Observer
    drain: Drain
    base: Checkpoint
    lineage: dict[str, Checkpoint] = field(default_factory=dict)
    lines: Sequence[Line] = ()
    """The limited models of the roles: what the window of conversations follows."""
    evaluators: Evaluators | None = None
    """None: the run's judge alone evaluates, and its checkpoints alone are evaluated."""

    # the run -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """All stages in order, with an evaluation before, after each and at the end."""
        await self.evaluate(only=[BASE])
        await self.distill()
        if self.trainer is not None:
            await self.finetune()
            await self.evaluate(only=[FINETUNE])
        await self.refine()
        if self.trainer is not None:
            await self.evaluate(only=[REFINE])
        await self.self_train()
        if self.trainer is not None:
            await self.evaluate(only=[SELF_TRAIN])
        await Measurement(self).conclude()

    async def measure(self) -> None:
        """Every checkpoint of the lineage and every rival on the held-out questions, and against one another."""
        await self.evaluate()
        await Measurement(self).conclude()

    # stage 1 -------------------------------------------------------------------------------------------------------

    async def distill(self) -> None:
        """Stage 1's conversations, spoken by the base student."""
        stage = self.settings.distill
        await self.serve(self.base)
        await self.hold(
            DISTILL,
            self.recipes.distill(self.base),
            self.taken(stage),
            lambda question: conversations.distill(
                question, self.cast.student, self.cast.teacher, guideline=stage.guideline
            ),
        )

    async def finetune(self, own_rows: Sequence[Example | Conversation] = ()) -> None:
        """Stage 1's training: question -> answer, on every accepted trace; or on the user's own rows."""
        if self.trainer is None:
            raise UsageError("finetune only trains, so --no-train leaves it nothing to do")
        converted = (
            TrainingRows(list(own_rows), {})
            if own_rows
            else distillation_rows(self.distilled(), self.cast.student)
        )
        rows, left_out = converted
        if not rows:
            raise UsageError(
                "finetune: this run has no accepted distill trace to train on; run `meteor distill` first, or name a "
                "file of your own with --data"
            )
        job = TrainingJob(
            name=FINETUNE,
            rows=tuple(rows),
            start=self.base,
            settings=self.settings.training_for(self.settings.distill),
            keeps_optimizer=self.settings.refine_goes_on_from(self.settings.distill),
        )
        recipe = self.recipes.finetune(self.base, own_rows=job.data_hash() if own_rows else None)
        async with self.stage(FINETUNE, recipe, len(rows), 0) as ended:
            checkpoint = await self.update(
                FINETUNE,
                recipe,
                number=1,
                traces=() if own_rows else tuple(row.id for row in rows),
                job=job,
                current=self.base,
                left_out=left_out,
            )
            ended(checkpoint, f"{len(rows)} examples -> {checkpoint.version}")
        await self.arrived(FINETUNE, checkpoint)

    def distilled(self) -> list[Trace]:
        """Stage 1's accepted traces, in the order of the questions."""
        stage = self.settings.distill
        ids = self.taken(stage).ids
        return [
            trace
            for trace in self.store.traces(DISTILL, self.recipes.distill(self.base), ids)
            if trace.outcome is Outcome.ACCEPTED
        ]

    # stage 2 -------------------------------------------------------------------------------------------------------

    async def refine(self) -> None:
        """Stage 2: conversations, with one update of the student for every K accepted traces."""
        stage = self.settings.refine
        entered = self.latest(before=REFINE)
        recipe = self.recipes.refine(entered, trains=self.trainer is not None)
        updates = Updates(self, recipe, entered)
        await self.serve(updates.student)
        self.cast.student_calls.also_reusable[REFINE] = updates.versions()
        async with updates:
            await self.hold(
                REFINE,
                recipe,
                self.taken(stage),
                lambda question: conversations.refine(
                    question,
                    self.cast.student,
                    self.cast.judge,
                    iterations=stage.iterations,
                    guide_by=self.cast.teacher if stage.guide_from == "teacher" else None,
                ),
                begin=updates.catch_up,
                sink=updates.take,
                finish=updates.finish,
                current=lambda: updates.student,
            )
        await self.arrived(REFINE, updates.student)

    # stage 3 -------------------------------------------------------------------------------------------------------

    async def self_train(self) -> None:
        """Stage 3: turns of preference pairs and their pairwise update."""
        await self.arrived(SELF_TRAIN, await SelfTraining(self).train(self.latest(before=SELF_TRAIN)))

    # evaluation ------------------------------------------------------------------------------------------------------

    async def evaluate(self, only: Sequence[str] = LINEAGE) -> None:
        """Score the checkpoints of the lineage on every held-out set; what is scored already is not asked again."""
        labels = [label for label in LINEAGE if label in only and label in self.lineage]
        await Measurement(self).checkpoints(labels)
        await self._save_lineage()

    # updates ---------------------------------------------------------------------------------------------------------

    async def update(
        self,
        stage: str,
        recipe: str,
        *,
        number: int,
        traces: tuple[str, ...],
        job: TrainingJob,
        current: Checkpoint,
        left_out: Mapping[str, int] = MappingProxyType({}),
        overlap: bool = False,
    ) -> Checkpoint:
        """One round, all or nothing: train, gate, record. Returns the student to go on with.

        Conversations wait meanwhile: the trainer has the machine to itself, and a candidate that is turned down has never
        spoken in one. With `overlap` they only wait while the gate's questions are answered.

        The new version is a hash of everything that decides the weights. A folder of that name is complete (it was
        renamed into place), so after a kill between training and recording the training is not repeated. Data that leave
        nothing to train on make a round that is not promoted. `left_out` says why traces gave no row, and how many.
        """
        assert self.trainer is not None
        folder = self.checkpoints / job.version()
        candidate = Checkpoint(version=job.version(), path=folder)
        for done in self.store.rounds(stage, recipe):
            if done.round == number and done.checkpoint == candidate.version and (folder.exists() or not done.promoted):
                return candidate if done.promoted else current
        if left_out:
            reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
            self.observer.on_event(TrainingNote(job.name, f"traces left out: {reasons}"))
        started = time.monotonic()
        report: TrainingReport | None = None
        calls = self.cast.student_calls
        async with nullcontext() if overlap else calls.only(GATE):
            async with calls.only(GATE):
                before = await self.gate_results()
            try:
                if not job.rows:
                    raise NothingToTrainError(f"no rows to train on: all {len(traces)} traces were left out")
                if not folder.exists():
                    if not overlap and isinstance(self.cast.student_server, FreesMemory):
                        await self.cast.student_server.free_memory()
                    report = await self.trainer.train(job, folder, self.observer.on_event)
                async with calls.only(GATE):
                    gate = await self._gate(candidate, job.start, before, current)
            except NothingToTrainError as error:
                gate = Gate(False, str(error))
        await self.store.add_round(
            recipe,
            Round(
                stage=stage,
                round=number,
                traces=traces,
                data_hash=job.data_hash(),
                start=job.start.version,
                checkpoint=candidate.version,
                promoted=gate.promoted,
                reason=gate.reason,
                report={
                    **(report.model_dump(mode="json") if report else {}),
                    **({"left_out": dict(left_out)} if left_out else {}),
                },
            ),
        )
        self.observer.on_event(
            UpdateFinished(
                job.name,
                len(job.rows),
                report.loss if report else None,
                time.monotonic() - started,
                gate.promoted,
                gate.reason,
            )
        )
        student = candidate if gate.promoted else current
        await self._prune(student)
        return student

    async def _prune(self, student: Checkpoint) -> None:
        """Let go of the checkpoints that no one needs any more."""
        keep = needed(self.store) | {checkpoint.version for checkpoint in (student, *self.lineage.values())}
        gone = await asyncio.to_thread(prune, self.checkpoints, keep, self.settings.checkpoints.keep)
        if gone:
            self.observer.on_event(Note(f"checkpoints: removed {', '.join(gone)}, which nothing starts from any more"))

    async def _gate(
        self, candidate: Checkpoint, start: Checkpoint, before: dict[str, Result], current: Checkpoint
    ) -> Gate:
        """Serve the candidate and decide whether it stays: it loads, answers, stops, and is not worse beyond noise."""
        if unlike := await asyncio.to_thread(speaks_unlike, start.path, candidate.path):
            return Gate(False, unlike)
        try:
            await self.serve(candidate)
            gate = judge_candidate(before, await self.gate_results(), free=self.cast.judge.free)
        except CredentialsError:
            raise
        except ModelError as error:
            gate = Gate(False, f"does not load or answer: {error}")
        if not gate.promoted:
            await self.serve(current)
        return gate

    async def gate_results(self) -> dict[str, Result]:
        """The served student on the gate questions, by id; judged only where a judgement costs nothing."""
        sampling = decoding("greedy", self.settings.student.sampling)
        results: dict[str, Result] = {}

        async def asked(question: Question) -> None:
            if self.cast.judge.free:
                results[question.id] = await examine(
                    question, self.cast.student, self.cast.judge, sampling=sampling, stage=GATE
                )
            else:
                attempt = await self.cast.student.attempt(question, stage=GATE, sampling=sampling)
                results[question.id] = Result(asked=fingerprint(question), attempt=attempt, status=Status.ERROR)

        await each(self.questions.gate, asked, window=self.window(), drain=Drain(), stage=GATE)
        return results

    async def serve(self, checkpoint: Checkpoint) -> None:
        """The student speaks with these weights from now on."""
        server = self.cast.student_server
        if server is None:
            if checkpoint.version != self.base.version:
                raise UsageError(
                    "the student's backend cannot load new weights; use `backend: transformers` or `sglang`"
                )
        elif server.weights != checkpoint.version:
            await server.load_weights(checkpoint.path, checkpoint.version)

    # shared --------------------------------------------------------------------------------------------------------

    async def hold(
        self,
        stage: str,
        recipe: str,
        questions: QuestionPool,
        conversation: Callable[[Question], Awaitable[Trace]],
        *,
        begin: Callable[[], Awaitable[None]] | None = None,
        sink: Callable[[Trace], Awaitable[None]] | None = None,
        finish: Callable[[], Awaitable[None]] | None = None,
        current: Callable[[], Checkpoint] | None = None,
    ) -> None:
        """Hold the conversations that this stage still owes, storing each trace before `sink` sees it."""
        finished = self.store.finished_stage(stage, recipe) is not None
        owed = self.store.owed(stage, recipe, questions)

        async def store_then_sink(trace: Trace) -> None:
            await self.store.add_trace(recipe, trace)
            self.observer.on_event(QuestionFinished(stage, trace.question.id, trace.outcome.value, trace.tries))
            if sink is not None:
                with suppress(BudgetReached):  # raised again by whoever calls next; this trace is stored
                    await sink(trace)

        as_it_was = finished and not owed
        async with self.stage(stage, recipe, len(questions), len(questions) - len(owed), again=not as_it_was) as ended:
            if begin is not None:
                await begin()
            await converse(
                owed,
                conversation,
                store_then_sink,
                stage=stage,
                window=self.window(),
                drain=self.drain,
                late=lambda question, error: self.observer.on_event(QuestionLate(stage, question.id, str(error))),
            )
            if finish is not None:
                await finish()
            counts = self.store.outcome_counts(stage, recipe, questions)
            if counts and counts.total() == counts[Outcome.FAILED]:
                first = self.store.first_error(stage, recipe)
                raise MeteorError(f"{stage}: all {counts.total()} questions failed; the first: {first}")
            summary = ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome])
            ended(current() if current else self.base, summary)

    @asynccontextmanager
    async def stage(
        self, name: str, recipe: str, questions: int, done: int, *, again: bool = True
    ) -> AsyncIterator[Callable[[Checkpoint, str], None]]:
        """Record the stage as running, then, once the body called `ended`, as done.

        Without `again` it is done already and stays so meanwhile: a kill must not reopen it.
        """
        results: list[tuple[Checkpoint, str]] = []
        started = time.monotonic()
        if again:
            await self.store.set_stage(name, recipe, "running", questions, "", 0.0)
        self.observer.on_event(StageStarted(name, questions, done))
        try:
            yield lambda checkpoint, summary: results.append((checkpoint, summary))
        except BaseException:
            if again:
                seconds = time.monotonic() - started
                await asyncio.shield(self.store.set_stage(name, recipe, "stopped", questions, "", seconds))
            raise
        seconds = time.monotonic() - started
        (checkpoint, summary), *_ = results
        await self.store.set_stage(name, recipe, "done", questions, checkpoint.version, seconds)
        self.observer.on_event(StageFinished(name, seconds, summary))

    async def arrived(self, label: str, checkpoint: Checkpoint) -> None:
        """The lineage goes on with this checkpoint; what came after it in an earlier run is no longer part of it."""
        if self.trainer is None:
            return
        self.lineage = {k: v for k, v in self.lineage.items() if LINEAGE.index(k) < LINEAGE.index(label)}
        self.lineage[label] = checkpoint
        await self._save_lineage()

    async def _save_lineage(self) -> None:
        await self.store.set_meta("lineage", {k: v.model_dump(mode="json") for k, v in self.lineage.items()})

    def latest(self, *, before: str | None) -> Checkpoint:
        """The newest checkpoint of the lineage that comes before a stage (None: of all)."""
        end = LINEAGE.index(before) if before else len(LINEAGE)
        return next((self.lineage[label] for label in reversed(LINEAGE[:end]) if label in self.lineage), self.base)

    def taken(self, stage: TakeSettings) -> QuestionPool:
        """The training questions of a stage."""
        end = None if stage.questions is None else stage.skip + stage.questions
        return self.questions.train[stage.skip : end]

    def window(self) -> Window:
        """A window of conversations for one pass over questions."""
        return Window(self.settings.student.limits.concurrency, self.lines)

    @property
    def recipes(self) -> Recipes:
        return Recipes(self.settings, self.templates.hashes())
