"""The stages over real stores and files, with scripted models and a trainer that only writes folders."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from meteor_agents import prompts
from meteor_agents.analysis.status import read_status
from meteor_agents.backends.scripted import ScriptedModel
from meteor_agents.calls.budget import Budget
from meteor_agents.calls.recorded import Called, RecordedModel
from meteor_agents.cli.tables import guided_updates, status_table
from meteor_agents.data.question_pool import QuestionPool
from meteor_agents.errors import BudgetReached, NothingToTrainError, TrainingError
from meteor_agents.evaluation.grading import Panel
from meteor_agents.events import Event, Observer, Observers, UpdateFinished
from meteor_agents.messages import Question
from meteor_agents.method.agents import Student
from meteor_agents.method.judges import ModelJudge, VerifierJudge
from meteor_agents.method.reference_teacher import ReferenceTeacher
from meteor_agents.method.templates import Templates
from meteor_agents.method.voice import Voice
from meteor_agents.models import ChatMessage, SamplingParams
from meteor_agents.pipeline.cast import Cast
from meteor_agents.pipeline.checkpoints import prune
from meteor_agents.pipeline.engine import Drain
from meteor_agents.pipeline.pipeline import Pipeline
from meteor_agents.pipeline.recipes import Recipes
from meteor_agents.pipeline.session import QuestionSets, ServedStudent, Session
from meteor_agents.settings.loading import load_settings
from meteor_agents.settings.run import Settings
from meteor_agents.store.records import open_for_reading
from meteor_agents.store.store import Store
from meteor_agents.traces import Outcome
from meteor_agents.training import Checkpoint, Example, PreferencePair, TrainingJob, TrainingReport
from meteor_agents.verifiers import open_verifier
from meteor_agents.weight_files import record_written

BASE = Checkpoint(version="base", path=Path("base"))


class FolderTrainer:
    """Writes an empty checkpoint folder, and remembers its jobs."""

    def __init__(self) -> None:
        self.jobs: list[TrainingJob] = []
        self.fails = False
        self.too_long = ""
        """The name of the job none of whose rows fits."""

    async def train(self, job: TrainingJob, folder: Path, on_event: Callable[[Event], None]) -> TrainingReport:
        if self.fails:
            raise TrainingError("the trainer's last words")
        if job.name == self.too_long:
            raise NothingToTrainError("no rows to train on: all are longer than max_length 8 tokens")
        self.jobs.append(job)
        await asyncio.to_thread(folder.mkdir)
        return TrainingReport(loss=0.5, steps=1, tokens=10, seconds=0.1, rows_used=len(job.rows), rows_too_long=0)

    async def aclose(self) -> None:
        pass


class Events:
    def __init__(self) -> None:
        self.all: list[Event] = []

    def on_event(self, event: Event) -> None:
        self.all.append(event)


class Learner:
    """A student whose answers depend on its weights: base is always wrong, a trained one is right, on `hard` questions
    only after a guide. Counts the calls it really gets."""

    def __init__(self) -> None:
        self.calls = 0
        self.spoils = ""
        """Weights version that answers everything wrong again."""
        self.model = ScriptedModel(self.reply, name="student", weights="base")

    def reply(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> str:
        self.calls += 1
        text = messages[-1].content
        number = int(re.findall(r"plus (\d+)", text)[0])
        if "guideline" in text:
            return "Add."
        if self.model.weights == "base" or (self.spoils and self.model.weights.startswith(self.spoils)):
            return "Answer: 0"
        if number % 3 == 0 and "judged to be wrong" not in text and sampling.beams == 1:
            return "Answer: 0"
        return f"Add {number} and one.\nAnswer: {number + 1}"


def questions(start: int, end: int) -> list[Question]:
    return [
        Question(id=f"q{i:03d}", question=f"What is one plus {i}?", reference=str(i + 1), reasoning="Add.")
        for i in range(start, end)
    ]


def settings(**more: Any) -> Settings:
    content = {
        "name": "sums",
        "domain": "sums",
        "questions": {"path": "q.jsonl"},
        "student": {"backend": "scripted", "limits": {"concurrency": 4}},
        "teacher": {"backend": "reference"},
        "judge": {"verifier": "numeric"},
        "refine": {"update_every": 10, "questions": 30},
        "self_train": {"high": {"beam": 4}},
        **more,
    }
    return load_settings(content, base=Path(), source="test")


class Run:
    """One process's life of a run: opens the store, runs, closes it."""

    def __init__(self, folder: Path, learner: Learner, trainer: FolderTrainer | None, **more: Any) -> None:
        self.folder, self.learner, self.trainer = folder, learner, trainer
        self.settings = settings(**more)
        self.events: Observer = Events()
        self.store: Callable[[Path], Store] = Store
        self.drain = Drain()
        self.base = BASE
        self.judge_model: ScriptedModel | None = None

    def __call__(self, stage: Callable[[Pipeline], Any] = Pipeline.run) -> dict[str, Any]:
        (self.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        store = self.store(self.folder / "run.db")
        try:
            asyncio.run(self._go(store, stage))
        finally:
            store.close()
        return self.status()

    def status(self) -> dict[str, Any]:
        with closing(open_for_reading(self.folder / "run.db")) as records:
            return read_status(records)

    async def _go(self, store: Store, stage: Callable[[Pipeline], Any]) -> None:
        given = self.settings
        templates = Templates(Path(prompts.__file__).parent)
        observer = Observers([self.events])
        budget = Budget(store, usd=given.budget.usd, tokens=given.budget.tokens)
        model = self.learner.model
        await model.load_weights(Path(), "base")

        def recorded(role: str, speaker: ScriptedModel, versioned: bool) -> RecordedModel:
            weights = (lambda: speaker.weights) if versioned else None
            called = Called(role=role, identity=role)
            return RecordedModel(speaker, called, store=store, budget=budget, observer=observer, weights=weights)

        student = recorded("student", model, True)
        judge: VerifierJudge | ModelJudge = VerifierJudge(open_verifier("numeric", {}, Path()))
        if self.judge_model is not None:
            speaker = recorded("judge", self.judge_model, False)
            judge = ModelJudge(Voice(speaker, templates, given.domain, given.judge.sampling))
        cast = Cast(
            Student(
                Voice(student, templates, given.domain, given.student.sampling), in_one_chat=given.refine.in_one_chat
            ),
            ReferenceTeacher(),
            judge,
            Panel.of(judge, given.judge.identity),
        )
        session = Session(
            settings=given,
            questions=QuestionSets(
                QuestionPool.of(questions(0, 40)), questions(100, 112), {"held out": questions(200, 230)}
            ),
            cast=cast,
            student=ServedStudent(student, model, self.base),
            recipes=Recipes(given, templates.hashes()),
            store=store,
            trainer=self.trainer,
            folder=self.folder / "checkpoints",
            observer=observer,
            drain=self.drain,
            lineage={"base": self.base},
        )
        await stage(Pipeline(session))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run", Learner(), FolderTrainer())


def test_all_stages_run_in_order_and_the_student_gets_better(run: Run) -> None:
    status = run()
    assert [(name, stage["state"]) for name, stage in status["stages"].items()] == [
        ("distill", "done"),
        ("finetune", "done"),
        ("refine", "done"),
        ("self-train", "done"),
    ]
    accuracy = {
        label: content["heldout"]["held out"]["accuracy"]["value"]
        for content in status["scores"].values()
        for label in content["labels"]
    }
    assert list(accuracy) == ["base", "finetune", "refine", "self-train"]
    assert accuracy["base"] == 0
    assert accuracy["finetune"] == pytest.approx(2 / 3)
    assert run.trainer is not None
    assert [job.name for job in run.trainer.jobs] == [
        "finetune",
        "refine-001",
        "refine-002",
        "refine-003",
        "self-train-001",
    ]


def test_each_update_trains_on_k_accepted_traces_and_starts_from_the_one_before(run: Run) -> None:
    run()
    assert run.trainer is not None
    finetune, first, second, third, _ = run.trainer.jobs
    assert [len(job.rows) for job in (first, second, third)] == [10, 10, 10]
    ids = [row.id for job in (first, second, third) for row in job.rows]
    assert len(set(ids)) == 30
    assert [job.start.version for job in (first, second, third)] == [
        finetune.version(),
        first.version(),
        second.version(),
    ]
    for row in first.rows:
        assert isinstance(row, Example)
        assert row.target.endswith(f"Answer: {int(row.id[1:]) + 1}")
        assert "judged to be wrong" not in row.prompt[-1].content


def test_the_guideline_is_not_part_of_the_training_target(run: Run) -> None:
    run()
    assert run.trainer is not None
    for row in run.trainer.jobs[0].rows:
        assert isinstance(row, Example)
        assert row.target == f"Add.\nAnswer: {int(row.id[1:]) + 1}"
        assert all("guideline" not in message.content for message in row.prompt)


def test_exhausted_traces_are_never_trained_on(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", Learner(), FolderTrainer(), refine={"iterations": 1, "update_every": 5})
    status = run()
    assert run.trainer is not None
    exhausted = {f"q{i:03d}" for i in range(0, 40, 3)}
    assert status["stages"]["refine"]["exhausted"] == len(exhausted)
    trained = {row.id for job in run.trainer.jobs if job.name.startswith("refine") for row in job.rows}
    assert trained
    assert trained.isdisjoint(exhausted)


def test_questions_that_no_try_got_right_are_answered_by_the_teacher_and_trained_on(tmp_path: Path) -> None:
    taught = {"iterations": 1, "update_every": 5, "exhausted": "teacher"}
    run = Run(tmp_path / "run", Learner(), FolderTrainer(), refine=taught)
    status = run()
    assert run.trainer is not None
    hard = {f"q{i:03d}" for i in range(0, 40, 3)}
    stage = status["stages"]["refine"]
    assert (stage["taught"], stage["exhausted"], stage["accepted"]) == (len(hard), 0, 40 - len(hard))
    trained = {row.id for job in run.trainer.jobs if job.name.startswith("refine") for row in job.rows}
    assert hard < trained
    table = io.StringIO()
    Console(file=table, width=120).print(status_table(status))
    assert "taught" in table.getvalue()
    assert "14 answered by the teacher" in (guided_updates(status) or "")
    calls = run.learner.calls
    Run(run.folder, run.learner, run.trainer, refine=taught)()
    assert run.learner.calls == calls


def test_an_update_can_start_from_the_untrained_student_with_all_of_stage_one_and_all_that_was_accepted(
    tmp_path: Path,
) -> None:
    restart = {"update_every": 10, "questions": 30, "init": "pretrained", "data": "cumulative", "replay": "all"}
    run = Run(tmp_path / "run", Learner(), FolderTrainer(), refine=restart)
    run()
    assert run.trainer is not None
    jobs = [job for job in run.trainer.jobs if job.name.startswith("refine")]
    assert [job.start.version for job in jobs] == ["base"] * 3
    assert [len(job.rows) for job in jobs] == [50, 60, 70]  # 40 of stage 1, and 10, 20, 30 accepted


def test_stage_two_ends_with_the_student_that_the_gate_found_best(tmp_path: Path) -> None:
    class Slipping(Learner):
        """Round 2 misses one gate question that round 1 answered: too little to be turned down."""

        def reply(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> str:
            said = super().reply(messages, sampling)
            slips = re.match(r"refine-00[23]", self.model.weights) and "plus 101?" in messages[-1].content
            return "Answer: 0" if slips else said

    run = Run(tmp_path / "run", Slipping(), FolderTrainer())
    status = run()
    first, second, third = (r for r in status["rounds"] if r["stage"] == "refine")
    assert [first["promoted"], second["promoted"], third["promoted"]] == [True] * 3
    assert status["stages"]["refine"]["checkpoint"] == first["checkpoint"]
    assert isinstance(run.events, Events)
    assert any(f"kept {first['checkpoint']} (8 gate questions right)" in getattr(e, "text", "") for e in run.events.all)
    calls = run.learner.calls
    again = Run(run.folder, run.learner, run.trainer)()
    assert (run.learner.calls, again["stages"]["refine"]["checkpoint"]) == (calls, first["checkpoint"])


def test_stage_three_prefers_the_beams_answer(run: Run) -> None:
    run()
    assert run.trainer is not None
    job = run.trainer.jobs[-1]
    assert job.loss is not None
    assert {row.id for row in job.rows} == {f"q{i:03d}" for i in range(0, 40, 3)}
    for row in job.rows:
        assert isinstance(row, PreferencePair)
        assert (row.rejected, row.chosen.endswith(str(int(row.id[1:]) + 1))) == ("Answer: 0", True)


def test_running_again_asks_nothing_and_trains_nothing(run: Run) -> None:
    before = run()
    assert run.trainer is not None
    calls, jobs = run.learner.calls, len(run.trainer.jobs)
    again = Run(run.folder, run.learner, run.trainer)()
    assert (run.learner.calls, len(run.trainer.jobs)) == (calls, jobs)
    assert (again["scores"], again["rounds"]) == (before["scores"], before["rounds"])
    assert again["calls"]["student"]["made"] == before["calls"]["student"]["made"]


@pytest.mark.parametrize("stop_after", [1, 25, 55, 70, 90, 111, 130, 170, 220])
def test_a_run_stopped_anywhere_ends_like_an_uninterrupted_one(tmp_path: Path, stop_after: int) -> None:
    class Stop(Exception):
        pass

    whole = Run(tmp_path / "whole", Learner(), FolderTrainer())
    expected = whole()

    learner, trainer = Learner(), FolderTrainer()
    plain = learner.model._reply
    told = 0

    def stopping(messages: Sequence[ChatMessage], sampling: SamplingParams) -> str:
        nonlocal told
        told += 1
        if told == stop_after:
            raise Stop
        return plain(messages, sampling)

    learner.model._reply = stopping
    with pytest.raises(Stop):
        Run(tmp_path / "stopped", learner, trainer)()
    status = Run(tmp_path / "stopped", learner, trainer)()
    in_flight = 2 * whole.settings.student.limits.concurrency  # conversations, and an update's gate beside them
    assert told <= whole.learner.calls + in_flight, "only what was in flight is asked for again"
    shape = [(r["stage"], r["round"], r["traces"], r["promoted"]) for r in status["rounds"]]
    assert shape == [(r["stage"], r["round"], r["traces"], r["promoted"]) for r in expected["rounds"]]
    assert {s: v["accepted"] for s, v in status["stages"].items()} == {
        s: v["accepted"] for s, v in expected["stages"].items()
    }


def test_a_failed_update_ends_the_run_and_the_next_run_repeats_only_the_update(run: Run) -> None:
    assert run.trainer is not None
    run.trainer.fails = True
    with pytest.raises(TrainingError, match="last words"):
        run()
    calls = run.learner.calls
    run.trainer.fails = False
    status = run()
    assert status["stages"]["finetune"]["state"] == "done"
    assert run.learner.calls > calls
    assert status["calls"]["student"]["made"] == run.learner.calls


def test_a_checkpoint_that_is_worse_is_not_promoted_and_the_run_goes_on_with_the_old_one(run: Run) -> None:
    run.learner.spoils = "refine-001"
    status = run()
    rounds = {r["round"]: r for r in status["rounds"] if r["stage"] == "refine"}
    assert rounds[1]["promoted"] is False
    assert "worse: 0 of 12" in rounds[1]["reason"]
    assert run.trainer is not None
    finetune, _, second, *_ = run.trainer.jobs
    assert second.start.version == finetune.version()
    assert isinstance(run.events, Events)
    assert any(isinstance(event, UpdateFinished) and not event.promoted for event in run.events.all)


def test_a_checkpoint_that_would_read_prompts_otherwise_is_not_promoted(run: Run) -> None:
    class Rewriting(FolderTrainer):
        async def train(self, job: TrainingJob, folder: Path, on_event: Callable[[Event], None]) -> TrainingReport:
            report = await super().train(job, folder, on_event)
            text = "other" if job.name == "refine-002" else "same"
            await asyncio.to_thread((folder / "chat_template.jinja").write_text, text)
            return report

    run.trainer = Rewriting()
    run.base = Checkpoint(version="base", path=run.folder / "base")
    run.base.path.mkdir(parents=True)
    (run.base.path / "chat_template.jinja").write_text("same")
    rounds = {r["round"]: r for r in run()["rounds"] if r["stage"] == "refine"}
    assert [rounds[number]["promoted"] for number in (1, 2, 3)] == [True, False, True]
    assert "chat_template.jinja is not that of refine-001" in rounds[2]["reason"]


@pytest.mark.parametrize("job", ["finetune", "refine-002", "self-train-001"])
def test_an_update_without_a_row_that_fits_is_a_round_that_is_not_promoted(run: Run, job: str) -> None:
    assert run.trainer is not None
    run.trainer.too_long = job
    status = run()
    refused = [r for r in status["rounds"] if not r["promoted"] and "longer than max_length" in r["reason"]]
    assert [(r["checkpoint"].rpartition("-")[0], r["tokens"]) for r in refused] == [(job, 0)]
    assert all(stage["state"] == "done" for stage in status["stages"].values())
    calls, jobs = run.learner.calls, len(run.trainer.jobs)
    again = Run(run.folder, run.learner, run.trainer)()
    assert again["rounds"] == status["rounds"]
    assert (run.learner.calls, len(run.trainer.jobs)) == (calls, jobs)


def test_checkpoints_that_nothing_starts_from_any_more_are_removed(tmp_path: Path) -> None:
    few = {"refine": {"update_every": 4, "questions": 40}}
    run = Run(tmp_path / "run", Learner(), FolderTrainer(), **few, checkpoints={"keep": 1})
    foreign = tmp_path / "run" / "checkpoints" / "mine"
    foreign.mkdir(parents=True)
    status = run()
    rounds = [r["checkpoint"] for r in status["rounds"]]
    assert len(rounds) == 1 + 10 + 1
    left = {path.name for path in foreign.parent.iterdir()}
    ends = {version for version in status["scores"] if version != "base"}
    assert left == {"mine", *ends}
    assert ends == {rounds[0], rounds[10], rounds[11]}
    calls, jobs = run.learner.calls, len(run.trainer.jobs) if run.trainer else 0
    again = Run(run.folder, run.learner, run.trainer, **few, checkpoints={"keep": 1})()
    assert run.trainer is not None
    assert (run.learner.calls, len(run.trainer.jobs)) == (calls, jobs)
    assert again["scores"] == status["scores"]


def test_checkpoints_of_an_edited_run_are_there_when_the_edit_is_taken_back(tmp_path: Path) -> None:
    learner, trainer = Learner(), FolderTrainer()
    runs: list[dict[str, Any]] = [{"update_every": 5}, {"update_every": 10}, {"update_every": 5}]
    for refine in runs[:2]:
        Run(tmp_path / "run", learner, trainer, refine={**refine, "questions": 30}, checkpoints={"keep": 1})()
    jobs = len(trainer.jobs)
    Run(tmp_path / "run", learner, trainer, refine={**runs[2], "questions": 30}, checkpoints={"keep": 1})()
    assert len(trainer.jobs) == jobs


@pytest.mark.parametrize("changed", [True, False])
def test_a_checkpoint_of_an_interrupted_update_is_used_unless_its_files_were_changed(run: Run, changed: bool) -> None:
    class Interrupted(FolderTrainer):
        async def train(self, job: TrainingJob, folder: Path, on_event: Callable[[Event], None]) -> TrainingReport:
            await super().train(job, folder, on_event)
            await asyncio.to_thread((folder / "config.json").write_text, "{}")
            await asyncio.to_thread(record_written, folder)
            raise TrainingError(str(folder))

    run.trainer = Interrupted()
    with pytest.raises(TrainingError) as failure:
        run()
    run.trainer = FolderTrainer()
    if changed:
        (Path(str(failure.value)) / "config.json").write_text("[]")
        with pytest.raises(TrainingError, match=r"cannot be used: config\.json has another content"):
            run()
        assert run.trainer.jobs == []
    else:
        run()
        assert str(failure.value).rpartition("/")[2] not in {job.version() for job in run.trainer.jobs}
        assert run.trainer.jobs


def test_half_a_checkpoint_never_carries_a_name(tmp_path: Path) -> None:
    for name in ("refine-001-00000000", "refine-002-00000000", ".removed-refine-000-00000000", "self-train-notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("x")
    assert prune(tmp_path, ["refine-002-00000000"], newest=0) == ["refine-001-00000000"]
    assert {path.name for path in tmp_path.iterdir()} == {"refine-002-00000000", "self-train-notes"}


def test_editing_the_number_of_tries_keeps_every_call_that_it_does_not_change(tmp_path: Path) -> None:
    learner = Learner()
    one = Run(tmp_path / "run", learner, None, refine={"iterations": 1})
    one(Pipeline.refine)
    calls = learner.calls
    status = Run(tmp_path / "run", learner, None, refine={"iterations": 2})(Pipeline.refine)
    assert learner.calls == calls + 40
    assert status["calls"]["student"] == {"made": 80, "reused": 40, "retried": 0, "failed": 0, "refused": 0, "filtered": 0}


def test_without_a_trainer_only_conversations_are_held(tmp_path: Path) -> None:
    status = Run(tmp_path / "run", Learner(), None)()
    assert status["rounds"] == []
    assert status["stages"]["distill"]["accepted"] == 40
    assert status["stages"]["refine"]["exhausted"] == 30


def test_the_budget_stops_the_run_and_a_raised_one_goes_on(tmp_path: Path) -> None:
    learner = Learner()
    with pytest.raises(BudgetReached, match=r"budget\.tokens"):
        Run(tmp_path / "run", learner, FolderTrainer(), budget={"tokens": 1500})()
    stopped = learner.calls
    assert stopped > 0
    status = Run(tmp_path / "run", learner, FolderTrainer())()
    assert status["calls"]["student"]["made"] == learner.calls
    assert status["stages"]["self-train"]["state"] == "done"


def test_stopping_at_the_budget_again_and_again_loses_no_reply(tmp_path: Path) -> None:
    learner, trainer = Learner(), FolderTrainer()
    stops, status = 0, {}
    for budget in range(700, 100_000, 1300):
        run = Run(tmp_path / "run", learner, trainer, budget={"tokens": budget})
        try:
            status = run()
            break
        except BudgetReached:
            stops += 1
            assert run.status()["calls"]["student"]["made"] == learner.calls, "what was in flight is kept"
    assert stops > 5
    assert status["stages"]["self-train"]["state"] == "done"
    assert status["calls"]["student"]["made"] == learner.calls
    assert len(trainer.jobs) == len(status["rounds"])


def test_a_stage_that_holds_no_conversations_shows_dashes(run: Run) -> None:
    status = run()
    assert status["stages"]["finetune"]["accepted"] == 0, "the JSON keeps its numbers"
    out = io.StringIO()
    Console(file=out, width=160).print(status_table(status))
    lines = [[cell.strip() for cell in line.split("│")] for line in out.getvalue().splitlines()]
    rows = {cells[1]: cells[3:7] for cells in lines if len(cells) > 6}
    assert rows["finetune"] == ["40", "-", "-", "-"]
    assert rows["distill"] == ["40", "40", "0", "0"]


def test_a_drained_run_goes_on_where_it_stopped(run: Run) -> None:
    from meteor_agents.pipeline.engine import Interrupted

    run.drain.request()
    with pytest.raises(Interrupted):
        run()
    again = Run(run.folder, run.learner, run.trainer)()
    assert again["stages"]["self-train"]["state"] == "done"


def test_a_model_judge_scores_five_criteria_and_compares_in_both_orders(tmp_path: Path) -> None:
    def judge(messages: Sequence[ChatMessage], sampling: SamplingParams) -> str:
        text = messages[-1].content
        criteria = ("accuracy", "completeness", "relevance", "coherence", "reliability")
        if "Reply A" in text:
            first = text.split("-----")[1]
            return json.dumps(dict.fromkeys(criteria, "B" if "Answer: 0" in first else "A"))
        right = "Answer: 0" not in text
        if "whole number" in text:
            return json.dumps(dict.fromkeys(criteria, 9 if right else 2))
        return json.dumps({"status": "correct" if right else "incorrect", "explanation": "x", "guide": "add"})

    run = Run(tmp_path / "run", Learner(), FolderTrainer(), refine={"update_every": 10, "questions": 10})
    run.judge_model = ScriptedModel(judge, name="judge")
    status = run()
    by_label = {label: content["heldout"] for content in status["scores"].values() for label in content["labels"]}
    assert by_label["base"]["held out"]["criteria"]["overall"]["value"] == 2
    assert by_label["finetune"]["held out"]["criteria"]["overall"]["value"] > 6
    (shares,) = (content["held out: pairwise against base"] for content in by_label.values() if len(content) > 1)
    assert shares["flipped"] == 10 * 5, "where both are wrong this judge always says B: the orders disagree, half each"
    assert shares["with_"]["accuracy"]["value"] == pytest.approx((20 + 10 / 2) / 30)


def test_failed_questions_are_asked_again_only_until_the_stage_is_done(tmp_path: Path) -> None:
    learner = Learner()
    plain = learner.model._reply

    def failing(messages: Sequence[ChatMessage], sampling: SamplingParams) -> str:
        from meteor_agents.errors import RefusedCallError

        if "plus 7?" in messages[-1].content:
            raise RefusedCallError("too long")
        return plain(messages, sampling)

    learner.model._reply = failing
    status = Run(tmp_path / "run", learner, None)(Pipeline.refine)
    assert status["stages"]["refine"]["failed"] == 1
    assert status["calls"]["student"]["failed"] == 1
    store = Store(tmp_path / "run" / "run.db")
    failed = [
        t for t in store.traces("refine", store.read("SELECT recipe FROM stages")[0][0]) if t.outcome is Outcome.FAILED
    ]
    store.close()
    assert [(trace.question.id, trace.error) for trace in failed] == [("q007", "too long")]


def test_the_students_memory_is_free_while_it_is_trained(tmp_path: Path) -> None:
    heard: list[str] = []

    class Freeing(ScriptedModel):
        async def free_memory(self) -> None:
            heard.append("free")

        async def load_weights(self, folder: Path, version: str) -> None:
            heard.append("load")
            await super().load_weights(folder, version)

    class Listening(FolderTrainer):
        async def train(self, job: TrainingJob, folder: Path, on_event: Callable[[Event], None]) -> TrainingReport:
            heard.append("train")
            return await super().train(job, folder, on_event)

    learner = Learner()
    learner.model = Freeing(learner.reply, name="student", weights="base")
    Run(tmp_path / "run", learner, Listening())()
    trained = [i for i, what in enumerate(heard) if what == "train"]
    assert len(trained) >= 3
    assert all(heard[i - 1 : i + 2] == ["free", "train", "load"] for i in trained)
    assert heard.count("free") == len(trained)
