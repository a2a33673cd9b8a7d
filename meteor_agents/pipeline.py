"""The stages in order: conversations, updates of the student with their gate, evaluation. Everything resumes.

Traces, rounds and results are stored under the stage's recipe (`recipes`), so an unchanged run finds all its work again
and an edited one finds whatever the edit leaves valid.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from . import conversations
from .agents import Judge, ModelJudge, Student, Teacher
from .calls import RecordedModel
from .checkpoints import needed, prune
from .conversations import DISTILL, REFINE, SELF_TRAIN
from .engine import Drain, Line, Window, converse
from .errors import BudgetReached, CredentialsError, MeteorError, ModelError, NothingToTrainError, UsageError
from .evaluation import (
    RESULT,
    Preference,
    Result,
    compare,
    examine,
    fingerprint,
    is_scored,
    summarise,
    summarise_comparison,
)
from .events import (
    EvaluationFinished,
    Note,
    Observer,
    QuestionFinished,
    QuestionLate,
    StageFinished,
    StageStarted,
    UpdateFinished,
)
from .gate import GATE, Gate, judge_candidate, speaks_unlike
from .messages import Question, Status
from .models import FreesMemory, LoadsWeights
from .questions import SetApart
from .recipes import FINETUNE, Recipes
from .settings import Settings, TakeSettings, decoding
from .store import Round, Store
from .templates import Templates
from .traces import Outcome, Trace
from .training import Checkpoint, Example, PreferencePair, Trainer, TrainingJob, TrainingReport
from .updates import Updates

BASE = "base"
LINEAGE = (BASE, FINETUNE, REFINE, SELF_TRAIN)
"""Where checkpoints come from, in order."""


@dataclass(frozen=True, slots=True)
class QuestionSets:
    """The questions of a run, already split; no held-out question is in `train`."""

    train: Sequence[Question]
    gate: Sequence[Question]
    heldout: dict[str, Sequence[Question]]
    set_apart: SetApart | None = None


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
            await self.compare_ends()

    async def measure(self) -> None:
        """Every checkpoint of the lineage on the held-out questions, and the last against the first."""
        await self.evaluate()
        await self.compare_ends()

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

    async def finetune(self) -> None:
        """Stage 1's training: question -> answer, on every accepted trace."""
        stage = self.settings.distill
        traces = self.distilled()
        rows = [
            Example(id=trace.question.id, prompt=self.cast.student.prompt(trace.question), target=trace.answer.text)
            for trace in traces
            if trace.answer is not None
        ]
        if not rows:
            raise UsageError("finetune: this run has no accepted distill trace to train on; run `meteor distill` first")
        recipe = self.recipes.finetune(self.base)
        async with self.stage(FINETUNE, recipe, len(rows), 0) as ended:
            checkpoint = await self.update(
                FINETUNE,
                recipe,
                number=1,
                traces=tuple(row.id for row in rows),
                job=TrainingJob(
                    name=FINETUNE,
                    rows=tuple(rows),
                    start=self.base,
                    settings=self.settings.training_for(stage),
                    keeps_optimizer=self.settings.refine_goes_on_from(stage),
                ),
                current=self.base,
            )
            ended(checkpoint, f"{len(rows)} examples -> {checkpoint.version}")
        await self.arrived(FINETUNE, checkpoint)

    def distilled(self) -> list[Trace]:
        """Stage 1's accepted traces, in the order of the questions."""
        stage = self.settings.distill
        ids = [question.id for question in self.taken(stage)]
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
        student = self.latest(before=SELF_TRAIN)
        for turn in range(1, self.settings.self_train.turns + 1):
            student = await self._self_train_turn(turn, student)
        await self.arrived(SELF_TRAIN, student)

    async def _self_train_turn(self, turn: int, student: Checkpoint) -> Checkpoint:
        stage = self.settings.self_train
        base = self.settings.student.sampling
        low, high = decoding(stage.low, base), decoding(stage.high, base)
        name = SELF_TRAIN if turn == 1 else f"{SELF_TRAIN}-{turn}"
        recipe = self.recipes.self_train(student, turn)
        await self.serve(student)
        await self.hold(
            name,
            recipe,
            self.taken(stage),
            lambda question: conversations.self_train(
                question,
                self.cast.student,
                low=low,
                high=high,
                verify=self.cast.judge if stage.verify else None,
                stage=name,
            ),
            current=lambda: student,
        )
        if self.trainer is None:
            return student
        ids = [question.id for question in self.taken(stage)]
        traces = self.store.traces(name, recipe, ids)
        pairs = tuple(_pair(self.cast.student, trace) for trace in traces if trace.outcome is Outcome.ACCEPTED)
        if not pairs:
            self.observer.on_event(Note("self-train: no pair had a preference; the student stays as it is"))
            return student
        return await self.update(
            name,
            recipe,
            number=turn,
            traces=tuple(pair.id for pair in pairs),
            job=TrainingJob(
                name=f"{SELF_TRAIN}-{turn:03d}",
                rows=pairs,
                start=student,
                settings=self.settings.training_for(stage),
                loss=stage.pairwise,
            ),
            current=student,
        )

    # evaluation ------------------------------------------------------------------------------------------------------

    async def evaluate(self, only: Sequence[str] = LINEAGE) -> None:
        """Score the checkpoints of the lineage on every held-out set; what is scored already is not asked again."""
        for label in [label for label in LINEAGE if label in only and label in self.lineage]:
            checkpoint = self.lineage[label]
            for heldout, questions in self.questions.heldout.items():
                results = await self._examine(label, checkpoint, heldout, questions)
                metrics = summarise(results, asked=len(questions))
                await self.store.add_evaluation(
                    checkpoint.version, heldout, self.recipes.evaluate(), label, metrics.model_dump(mode="json")
                )
                self.observer.on_event(EvaluationFinished(label, heldout, metrics.headline()))
        await self._save_lineage()

    async def _examine(
        self, label: str, checkpoint: Checkpoint, heldout: str, questions: Sequence[Question]
    ) -> list[Result]:
        recipe = self.recipes.evaluate()
        stage = f"evaluate {label}: {heldout}"
        stored = self.store.scores(checkpoint.version, heldout, recipe)
        results = {id_: RESULT.validate_json(result) for id_, result in stored.items()}
        owed = [q for q in questions if not is_scored(results.get(q.id), q)]
        sampling = decoding("greedy", self.settings.student.sampling)

        async def examined(question: Question) -> None:
            result = await examine(question, self.cast.student, self.cast.judge, sampling=sampling)
            results[question.id] = result
            await self.store.add_score(
                checkpoint.version, heldout, recipe, question.id, RESULT.dump_json(result).decode()
            )
            self.observer.on_event(QuestionFinished(stage, question.id, result.status.value, 1))

        started = time.monotonic()
        self.observer.on_event(StageStarted(stage, len(questions), len(questions) - len(owed)))
        if owed:
            await self.serve(checkpoint)
            await _each(owed, examined, window=self.window(), drain=self.drain, stage=stage)
        done = [results[q.id] for q in questions if q.id in results]
        headline = summarise(done, asked=len(questions)).headline()
        self.observer.on_event(StageFinished(stage, time.monotonic() - started, headline))
        return done

    async def compare_ends(self) -> None:
        """With a model judge: the last checkpoint against the first, both orders, share by criterion."""
        judge, last = self.cast.judge, self.latest(before=None)
        if not isinstance(judge, ModelJudge) or not self.settings.evaluate.pairwise or last == self.base:
            return
        recipe = self.recipes.evaluate()
        for heldout, questions in self.questions.heldout.items():
            ends = [self.store.scores(version, heldout, recipe) for version in (self.base.version, last.version)]
            both = [question for question in questions if all(question.id in scores for scores in ends)]
            found = await self._compared(judge, both, *ends)
            shares = summarise_comparison(found)
            await self.store.add_evaluation(
                last.version, f"{heldout}: pairwise against base", recipe, "pairwise", shares.model_dump(mode="json")
            )

    async def _compared(
        self, judge: ModelJudge, questions: Sequence[Question], before: dict[str, str], after: dict[str, str]
    ) -> list[dict[str, Preference]]:
        found: list[dict[str, Preference]] = []

        async def compared(question: Question) -> None:
            without, with_ = (RESULT.validate_json(side[question.id]).attempt for side in (before, after))
            found.append(await compare(question, judge, without, with_))

        await _each(questions, compared, window=self.window(), drain=self.drain, stage="compare")
        return found

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
        overlap: bool = False,
    ) -> Checkpoint:
        """One round, all or nothing: train, gate, record. Returns the student to go on with.

        Conversations wait meanwhile: the trainer has the machine to itself, and a candidate that is turned down has never
        spoken in one. With `overlap` they only wait while the gate's questions are answered.

        The new version is a hash of everything that decides the weights. A folder of that name is complete (it was
        renamed into place), so after a kill between training and recording the training is not repeated. Data that leave
        nothing to train on make a round that is not promoted.
        """
        assert self.trainer is not None
        folder = self.checkpoints / job.version()
        candidate = Checkpoint(version=job.version(), path=folder)
        for done in self.store.rounds(stage, recipe):
            if done.round == number and done.checkpoint == candidate.version and (folder.exists() or not done.promoted):
                return candidate if done.promoted else current
        started = time.monotonic()
        report: TrainingReport | None = None
        calls = self.cast.student_calls
        async with nullcontext() if overlap else calls.only(GATE):
            async with calls.only(GATE):
                before = await self._gate_results()
            try:
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
                report=report.model_dump(mode="json") if report else {},
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
            gate = judge_candidate(before, await self._gate_results(), free=self.cast.judge.free)
        except CredentialsError:
            raise
        except ModelError as error:
            gate = Gate(False, f"does not load or answer: {error}")
        if not gate.promoted:
            await self.serve(current)
        return gate

    async def _gate_results(self) -> dict[str, Result]:
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

        await _each(self.questions.gate, asked, window=self.window(), drain=Drain(), stage=GATE)
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
        questions: Sequence[Question],
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
            wanted = {question.id for question in questions}
            counts = Counter(outcome for id_, outcome in self.store.outcomes(stage, recipe) if id_ in wanted)
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

    def taken(self, stage: TakeSettings) -> Sequence[Question]:
        """The training questions of a stage."""
        end = None if stage.questions is None else stage.skip + stage.questions
        return self.questions.train[stage.skip : end]

    def window(self) -> Window:
        """A window of conversations for one pass over questions."""
        return Window(self.settings.student.limits.concurrency, self.lines)

    @property
    def recipes(self) -> Recipes:
        return Recipes(self.settings, self.templates.hashes())


def _pair(student: Student, trace: Trace) -> PreferencePair:
    low, high = trace.attempts
    return PreferencePair(
        id=trace.question.id, prompt=student.prompt(trace.question), chosen=high.text, rejected=low.text
    )


async def _each(
    questions: Sequence[Question],
    work: Callable[[Question], Awaitable[None]],
    *,
    window: Window,
    drain: Drain,
    stage: str,
) -> None:
    """`work` on every question through the engine. Raises `ModelError` when it failed for all of them."""
    failures: list[str] = []

    async def conversation(question: Question) -> Trace:
        await work(question)
        return Trace(stage=stage, question=question, messages=(), outcome=Outcome.ACCEPTED)

    async def count(trace: Trace) -> None:
        if trace.error is not None:
            failures.append(trace.error)

    await converse(questions, conversation, count, stage=stage, window=window, drain=drain)
    if len(failures) == len(questions) and failures:
        raise ModelError(failures[0])
