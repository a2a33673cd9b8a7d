"""A run replayed from its directory alone: nothing that could be asked is there any more."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from meteor_agents import prompts
from meteor_agents.analysis.replay import FIGURES, Held, Replay, ReplaySession
from meteor_agents.analysis.replayed_speaker import ReplayedSpeaker
from meteor_agents.backends.scripted import ScriptedModel
from meteor_agents.evaluation.grading import Panel
from meteor_agents.method.agents import Student
from meteor_agents.method.judges import Judge, ModelJudge, VerifierJudge
from meteor_agents.method.reference_teacher import ReferenceTeacher
from meteor_agents.method.replies import CRITERIA
from meteor_agents.method.templates import Templates
from meteor_agents.method.voice import Voice
from meteor_agents.models import ChatMessage, Completion, SamplingParams
from meteor_agents.pipeline.cast import Cast, RoleModel
from meteor_agents.pipeline.pipeline import Pipeline
from meteor_agents.store.records import open_for_reading
from meteor_agents.verifiers import open_verifier
from tests.pipeline.test_pipeline import BASE, FolderTrainer, Learner, Run, questions
from tests.support.chat_server import running_server
from tests.support.server_project import Project, environment
from tests.support.tiny_model import make_tiny

ALONE = """
import sys
def refuse(event, args):
    if event == "subprocess.Popen" and "meteor_agents.verifiers.child" in args[1][-1]:
        return  # the process in which a verifier checks
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen", "os.posix_spawn"):
        raise RuntimeError(f"a replay must not do this: {event}")
sys.addaudithook(refuse)
from meteor_agents.cli import main
sys.argv = ["meteor", *sys.argv[1:]]
main()
"""


def replay(folder: Path, *args: str, code: int = 0) -> str:
    """`meteor replay` in a process that can reach no one and start nothing but a verifier's process."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE, "replay", *args], cwd=folder, env=environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of stages 1 and 2 with a teacher, a student and a judge that were servers. They are gone."""
    folder = tmp_path_factory.mktemp("asked")
    with running_server() as server:
        project = Project(folder / "project", server, questions=25)
        project("distill", "meteor.yaml", "--no-train")
        project.refine()
    elsewhere = folder / "elsewhere" / "run"
    shutil.copytree(folder / "project" / "runs" / "asked", elsewhere)
    shutil.rmtree(folder / "project")
    return elsewhere


def test_a_run_directory_alone_replays_a_run_with_no_one_to_ask(asked: Path) -> None:
    said = replay(asked.parent, "run")
    assert "Everything is as it was recorded" in said
    rows = [[cell.strip() for cell in line.split("│")] for line in said.splitlines() if line.startswith("│")]
    assert [row[1:-1] for row in rows] == [["distill", "25", "25", "0", "0"], ["refine", "25", "25", "0", "0"]]


def test_one_question_is_replayed_by_its_id(asked: Path) -> None:
    assert "Everything is as it was recorded" in replay(asked.parent, "run", "q007")
    assert "holds no conversation about question 'q999'" in replay(asked.parent, "run", "q999", code=2)


def test_a_replay_writes_nothing(asked: Path) -> None:
    def content() -> dict[str, bytes]:
        return {
            str(path): path.read_bytes() for path in asked.rglob("*") if path.is_file() and "run.db-" not in path.name
        }

    before = content()
    replay(asked.parent, "run")
    assert content() == before


def test_what_was_never_asked_is_named_with_what_differs(asked: Path, tmp_path: Path) -> None:
    shutil.copytree(asked, tmp_path / "run")
    prompt = tmp_path / "run/inputs/prompts/student_attempt.jinja"
    prompt.write_text(prompt.read_text().replace("{% block user %}", "{% block user %}Well: ", 1))
    said = " ".join(replay(tmp_path, "run", "q003", code=1).split())
    assert "refine, q003: student: no reply is recorded (question 'q003', refine, try 1); message" in said
    assert "is 'Well: " in said

    said = replay(asked.parent, "run", "q003", "--set", "teacher.sampling.temperature=0.1", code=1)
    assert (
        "teacher: no reply is recorded (question 'q003', distill, try 1); sampling: temperature was 0.7, is 0.1" in said
    )

    said = replay(asked.parent, "run", "--set", "refine.iterations=9", code=1)
    assert "refine, q" in said


def test_a_verdict_that_reads_otherwise_now_is_shown(asked: Path, tmp_path: Path) -> None:
    shutil.copytree(asked, tmp_path / "run")
    with closing(sqlite3.connect(tmp_path / "run/run.db")) as database, database:
        id_, text = database.execute(
            "SELECT question_id, reply FROM calls WHERE role = 'judge' AND reply LIKE '%\"correct\"%' LIMIT 1"
        ).fetchone()
        other = text.replace('"correct"', '"incorrect"')
        database.execute("UPDATE calls SET reply = ? WHERE reply = ?", (other, text))
    said = replay(tmp_path, "run", id_, code=1)
    assert f"refine, {id_}: " in said


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    assert "is not a run directory" in replay(tmp_path, ".", code=2)


VERIFIED = """
name: sums
domain: sums
questions: {path: questions.jsonl, holdout: 6, gate: 0}
student: {backend: scripted, model: toy, replies: ["SELECT 1", "SELECT 2", "Answer: SELECT 3"], cycle: true}
teacher: {backend: reference}
judge: {verifier: sql, database: data.sql}
refine: {iterations: 2}
"""


def test_held_out_results_and_a_verifiers_files_are_part_of_the_run_directory(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "meteor.yaml").write_text(VERIFIED)
    (project / "data.sql").write_text("CREATE TABLE t (n); INSERT INTO t VALUES (1), (2);")
    rows = [{"id": f"r{i}", "question": f"How many? {i}", "reference": "SELECT 3"} for i in range(20)]
    (project / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for stage in ("evaluate", "refine"):
        done = subprocess.run(
            [sys.executable, "-m", "meteor_agents.cli", stage, "meteor.yaml", "--no-train"], cwd=project,
            env=environment(), capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    (project / "runs/sums").rename(tmp_path / "sent")
    shutil.rmtree(project)
    said = replay(tmp_path, "sent")
    assert "evaluate base: held out" in said
    assert "held-out results (95 % intervals)" in said, "the table that the run printed"
    (tmp_path / "sent/inputs/files/data.sql").unlink()
    assert "--set judge.OPTION=" in replay(tmp_path, "sent", code=2)


JUDGE = {"backend": "scripted", "model": "judge"}


class Unsteady(ScriptedModel):
    """Replies after times that differ, so that results come in an order of their own."""

    async def complete(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion:
        await asyncio.sleep(zlib.crc32(messages[-1].content.encode()) % 7 / 500)
        return await super().complete(messages, sampling)


@pytest.mark.parametrize("judged_by", ["verifier", "model"])
def test_words_of_every_weights_version_are_found_without_training(tmp_path: Path, judged_by: str) -> None:
    more: dict[str, Any] = {"student": {"backend": "scripted", "model": "student", "limits": {"concurrency": 4}}}
    if judged_by == "model":
        more["judge"] = JUDGE
    run = Run(tmp_path / "run", Learner(), FolderTrainer(), **more)
    if judged_by == "model":
        run.judge_model = ScriptedModel(judged, name="judge")
    status = run(Pipeline.run)
    assert len([found for found in status["rounds"] if found["promoted"]]) >= 4
    held = replayed(run)
    assert [one for one in held if one.difference] == []
    stages = {one.stage for one in held}
    assert {"distill", "refine", "self-train", "evaluate refine: held out"} <= stages
    assert ("evaluate pairwise: held out against base" in stages) == (judged_by == "model")


def test_figures_are_as_recorded_though_judges_answered_in_another_order(tmp_path: Path) -> None:
    def scores(messages: Any, sampling: Any) -> str:
        number = zlib.crc32(messages[-1].content.encode()) % 9 + 1
        return json.dumps({"justification": "so", **dict.fromkeys(CRITERIA, number)})

    student = {"backend": "scripted", "model": "student", "limits": {"concurrency": 8}}
    run = Run(tmp_path / "run", Learner(), None, student=student, judge=JUDGE)
    run.judge_model = Unsteady(scores, name="judge")
    run(lambda pipeline: pipeline.evaluate(["base"]))
    held = replayed(run)
    assert [one.difference for one in held if one.difference] == []
    assert FIGURES in {one.question_id for one in held}


def judged(messages: Any, sampling: Any) -> str:
    text = messages[-1].content
    if "Answer: 0" in text and "winner" not in text:
        return json.dumps({"status": "incorrect", "explanation": "0", "guide": "add"})
    if sampling.json_schema and '"A"' in sampling.json_schema:
        criteria = ("accuracy", "completeness", "relevance", "coherence", "reliability")
        return json.dumps({"justification": "so", **dict.fromkeys(criteria, "A" if len(text) % 2 else "tie")})
    if sampling.json_schema and "status" not in sampling.json_schema:
        criteria = ("accuracy", "completeness", "relevance", "coherence", "reliability")
        return json.dumps({"justification": "so", **dict.fromkeys(criteria, 1 + len(text) % 9)})
    return json.dumps({"status": "correct", "explanation": "yes", "guide": ""})


def replayed(run: Run) -> list[Held]:
    settings = run.settings
    templates = Templates(Path(prompts.__file__).parent)
    with closing(open_for_reading(run.folder / "run.db")) as records:
        speaker = ReplayedSpeaker(RoleModel("student", "student", settings.student), records)
        student = Student(Voice(speaker, templates, settings.domain, settings.student.sampling))
        judge: Judge = VerifierJudge(open_verifier("numeric", {}, Path()))
        if run.judge_model is not None:
            judging = ReplayedSpeaker(RoleModel("judge", "judge", settings.judge), records)
            judge = ModelJudge(Voice(judging, templates, settings.domain, settings.judge.sampling))
        cast = Cast(student, ReferenceTeacher(), judge, Panel.of(judge, settings.judge.identity))
        heldout = {"held out": {question.id: question for question in questions(200, 230)}}
        again = Replay(ReplaySession(settings, records, cast, speaker, heldout, BASE))

        async def everything() -> list[Held]:
            return [*[await again.hold(trace) for trace in records.current_traces()], *await again.evaluations()]

        return asyncio.run(everything())


CONTRASTED = """
name: sums
domain: sums
questions: {path: questions.jsonl, holdout: 0, gate: 0}
student: {backend: transformers, model: tiny, sampling: {max_tokens: 6}}
teacher: {backend: reference}
judge: {verifier: numeric}
self_train: {high: {contrast: base}}
"""


def test_a_contrast_with_the_untrained_student_is_replayed_under_the_name_that_the_run_gave_it(tmp_path: Path) -> None:
    make_tiny(tmp_path / "tiny")
    (tmp_path / "meteor.yaml").write_text(CONTRASTED)
    rows = [{"id": f"r{i}", "question": f"How many? {i}", "reference": "3"} for i in range(3)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = subprocess.run(
        [sys.executable, "-m", "meteor_agents.cli", "self-train", "meteor.yaml", "--no-train"], cwd=tmp_path,
        env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no reply is recorded" not in replay(tmp_path, "runs/sums")
