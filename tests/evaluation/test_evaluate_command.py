"""`meteor evaluate` as a user has it: panels, rivals, people, warnings, and mistakes in its settings."""

from __future__ import annotations

import base64
import gzip
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.test_cli import meteor

SETTINGS = """
name: sums
domain: sums
questions: {path: questions.jsonl, holdout: 10, gate: 0}
student: {backend: scripted, model: toy-student, function: "toy:student", limits: {concurrency: 2}}
teacher: {backend: reference}
judge: {backend: scripted, model: qwen-judge, function: "toy:judge"}
evaluate:
  models:
    - {name: rival, backend: scripted, model: other, function: "toy:rival"}
  judges: [{backend: scripted, model: second-judge, function: "toy:second"}]
  verifier: {verifier: numeric}
  repeat: 4
  human: labels.jsonl
"""

TOY = """
import json

CRITERIA = ("accuracy", "completeness", "relevance", "coherence", "reliability")

def student(messages, sampling):
    return "Answer: 5"

def rival(messages, sampling):
    return "I add the two and see.\\nAnswer: 4"

def judge(messages, sampling, low=2, high=9):
    with open("judged.txt", "a") as judged:
        judged.write("x\\n")
    text = messages[-1].content
    if "Reply A" in text:
        first = text.split("-----")[1]
        return json.dumps(dict.fromkeys(CRITERIA, "B" if "Answer: 5" in first else "A"))
    right = "Answer: 4" in text
    if "whole number" in text:
        return json.dumps({"justification": "counted", **dict.fromkeys(CRITERIA, high if right else low)})
    return json.dumps({"status": "correct" if right else "incorrect", "explanation": "x", "guide": ""})

def second(messages, sampling):
    return judge(messages, sampling, low=4, high=7)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "meteor.yaml").write_text(SETTINGS)
    (tmp_path / "toy.py").write_text(TOY)
    rows = [{"id": f"q{i}", "question": f"What is {i} plus {4 - i}?", "reference": "4"} for i in range(20)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    labels = [
        {"id": f"q{i}", "label": "correct" if i % 2 else "incorrect", "reply": "Answer: 4" if i % 4 else "Answer: 5"}
        for i in range(20)
    ]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labels))
    return tmp_path


def test_any_models_are_measured_by_a_panel_against_one_another_and_doubted(project: Path) -> None:
    done = meteor("evaluate", "meteor.yaml", cwd=project)
    assert done.returncode == 0, done.stderr
    status = json.loads(meteor("status", "runs/sums", "--json", cwd=project).stdout)
    assert set(status) == {"stages", "calls", "tokens", "usd", "rounds", "scores"}
    found = {label: content["heldout"] for content in status["scores"].values() for label in content["labels"]}
    assert list(found) == ["base", "rival"]
    assert [found[name]["held out"]["criteria"]["overall"]["value"] for name in ("base", "rival")] == [3, 8]
    assert [found[name]["held out"]["accuracy"]["value"] for name in ("base", "rival")] == [0, 1]

    shares = found["base"]["held out: pairwise against rival"]
    assert (shares["with_"]["accuracy"]["value"], shares["judge_errors"], shares["verdicts"]) == (0, 0, 100)
    pairs = {
        (row["before"], row["after"], row["measure"]): row for row in found["base"]["held out: differences"]["pairs"]
    }
    assert pairs["rival", "base", "overall"]["difference"]["value"] == -5
    assert pairs["rival", "base", "overall"]["p"] == pytest.approx(2 / 2**10)

    trust = found["base"]["held out: trust"]
    assert (trust["repeats"]["questions"], trust["repeats"]["same"]["value"]) == (4, 1)
    assert [pair["judges"] for pair in trust["panel"]] == [["qwen-judge", "second-judge"]]
    assert trust["panel"][0]["within_one"] == 0
    people = {agreed["judge"]: agreed for agreed in trust["human"]}
    assert set(people) == {"qwen-judge", "second-judge", "verifier"}
    heldout = found["base"]["held out"]["questions"]
    assert people["qwen-judge"]["labels"] == heldout
    assert sum(n for row in people["qwen-judge"]["confusion"].values() for n in row.values()) == heldout
    assert trust["length"]["correlation"]["value"] > 0.9

    for said in ("rival", "pairwise against rival", "asked twice", "agrees with people", "report.html"):
        assert said in done.stdout, said
    page = (project / "runs/sums/report.html").read_text()
    assert '<th scope="row">rival</th>' in page
    assert status["calls"]["evaluated"]["made"] == 10


def estimated_calls(project: Path) -> dict[str, int]:
    """By role, from the table of `meteor estimate`."""
    done = meteor("estimate", "meteor.yaml", "--stage", "evaluate", cwd=project)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"(student|judge|evaluated|total)\W+([\d,]+)", done.stdout)
    return {role: int(calls.replace(",", "")) for role, calls in rows}


def test_the_estimate_counts_panels_rivals_and_labels_as_the_evaluation_then_asks_them(project: Path) -> None:
    told = estimated_calls(project)
    assert meteor("evaluate", "meteor.yaml", cwd=project).returncode == 0
    status = json.loads(meteor("status", "runs/sums", "--json", cwd=project).stdout)
    assert {role: row["made"] for role, row in status["calls"].items()} == {
        role: calls for role, calls in told.items() if role != "total"
    }
    assert set(estimated_calls(project).values()) == {0}


def test_report_is_written_where_it_is_wanted_and_its_mistakes_are_one_message(project: Path) -> None:
    assert meteor("distill", "meteor.yaml", "--no-train", "--limit", "3", cwd=project).returncode == 0
    done = meteor("report", "runs/sums", "--out", "page.html", cwd=project)
    assert done.returncode == 0, done.stderr
    assert "page.html" in done.stdout
    assert "Nothing was measured yet" in (project / "page.html").read_text()
    for args, complaint in (
        (["report", "nowhere"], "is not a run directory"),
        (["report", "runs/sums", "--out", "no/such/folder.html"], "cannot be written"),
    ):
        done = meteor(*args, cwd=project)
        assert (done.returncode, complaint in done.stderr) == (2, True), done.stderr
        assert "Traceback" not in done.stderr


def test_evaluating_again_asks_nothing(project: Path) -> None:
    assert meteor("evaluate", "meteor.yaml", cwd=project).returncode == 0
    asked = (project / "judged.txt").read_text()
    assert meteor("evaluate", "meteor.yaml", cwd=project).returncode == 0
    assert (project / "judged.txt").read_text() == asked


def test_a_related_judge_and_nearly_repeated_questions_are_warned_of_and_do_not_stop(project: Path) -> None:
    done = meteor("check", "meteor.yaml", cwd=project)
    assert "nearly repeat one of training" in done.stdout
    renamed = (project / "meteor.yaml").read_text().replace("model: other", "model: qwen-small")
    (project / "meteor.yaml").write_text(renamed)
    done = meteor("evaluate", "meteor.yaml", cwd=project)
    assert done.returncode == 0, done.stderr
    assert "10 of 10 questions nearly repeat one of training (0 word for word)" in done.stdout
    assert (
        "the judge (qwen-judge) and the evaluated model rival (qwen-small) are both of the family Qwen" in done.stdout
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("evaluate.models=[{name: base, backend: scripted}]", "what a checkpoint of the run is called"),
        ("evaluate.models=[{backend: scripted}]", "name"),
        ("evaluate.human=nowhere.jsonl", "cannot be read (evaluate.human)"),
        ("evaluate.repat=3", "did you mean 'repeat'?"),
    ],
)
def test_a_mistake_in_the_evaluations_settings_is_one_clear_message(project: Path, change: str, complaint: str) -> None:
    done = meteor("evaluate", "meteor.yaml", "--set", change, cwd=project)
    assert (done.returncode, complaint in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr
    assert not (project / "judged.txt").exists()


def test_a_held_out_set_whose_name_ends_like_a_finding_is_a_set_everywhere(project: Path) -> None:
    rows = [{"id": f"h{i}", "question": f"Which sum is {i + 50} and {i}?", "reference": "4"} for i in range(6)]
    (project / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = meteor("evaluate", "meteor.yaml", "--set", "questions.heldout={'maths: trust': more.jsonl}", cwd=project)
    assert done.returncode == 0, done.stderr
    assert "maths: trust" in done.stdout[done.stdout.index("held-out results") :].partition("untrained")[0]
    assert "maths: trust: pairwise against rival: with METEOR" in done.stdout
    status = json.loads(meteor("status", "runs/sums", "--json", cwd=project).stdout)
    found = {label: content["heldout"] for content in status["scores"].values() for label in content["labels"]}
    assert found["base"]["maths: trust"]["questions"] == found["rival"]["maths: trust"]["questions"] == 6
    assert found["base"]["maths: trust: trust"]["repeats"]["questions"] == 4
    replayed = meteor("replay", "runs/sums", cwd=project)
    assert "evaluate base: maths: trust" in replayed.stdout, replayed.stderr
    page = (project / "runs/sums/report.html").read_text()
    assert "<h3>maths: trust</h3>" in page


def test_damage_in_stored_results_is_one_sentence_in_every_command(project: Path) -> None:
    assert meteor("evaluate", "meteor.yaml", cwd=project).returncode == 0
    database = project / "runs/sums/run.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE scores SET result = substr(result, 1, 40)")
        connection.commit()
    for command in (("report", "runs/sums"), ("replay", "runs/sums"), ("evaluate", "meteor.yaml")):
        done = meteor(*command, cwd=project)
        assert done.returncode == 1, command
        assert "the stored result of held-out question 'q" in done.stderr
        assert "is damaged" in done.stderr
        assert "Traceback" not in done.stderr


def test_held_out_traces_of_the_report_show_the_question_and_not_the_prompt(project: Path) -> None:
    assert meteor("evaluate", "meteor.yaml", cwd=project).returncode == 0
    page = (project / "runs/sums/report.html").read_text()
    (packed,) = re.findall(r'id="data-traces">([^<]*)<', page)
    traces = json.loads(gzip.decompress(base64.b64decode(packed)))
    assert {trace["stage"] for trace in traces} == {"held out: held out"}
    assert all(re.fullmatch(r"What is \d+ plus -?\d+\?", trace["question"]) for trace in traces)
    assert {trace["reference"] for trace in traces} == {"4"}


@pytest.mark.parametrize("content", ["{", "[]\n", '{"set": "held out"}', "[" * 5000, '{"set": "x", "question": {"id": 1}}'])
def test_damaged_inputs_of_a_run_are_named_by_the_report(project: Path, content: str) -> None:
    assert meteor("distill", "meteor.yaml", "--no-train", "--limit", "2", cwd=project).returncode == 0
    (project / "runs/sums/inputs/held-out.jsonl").write_text(content)
    done = meteor("report", "runs/sums", cwd=project)
    assert (done.returncode, "held-out.jsonl is damaged" in done.stderr, "Traceback" in done.stderr) == (1, True, False)
