"""What can be said of an evaluation: panels, rivals, people, differences, kinship, overlap."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from meteor_agents import prompts
from meteor_agents.backends.scripted import ScriptedModel
from meteor_agents.data.near_duplicates import find_near_duplicates, find_near_duplicates_by_set
from meteor_agents.errors import SettingsError
from meteor_agents.evaluation.comparison import Compared, Preference, compare, summarise_comparison
from meteor_agents.evaluation.differences import differences
from meteor_agents.evaluation.grading import ACCURACY, OVERALL, Panel, Result, examine, summarise
from meteor_agents.evaluation.human_labels import agreement, read_labels
from meteor_agents.evaluation.judge_reliability import length_effect, panel_agreements, repeats
from meteor_agents.evaluation.model_families import family, kinships
from meteor_agents.messages import Attempt, Question, Status
from meteor_agents.method.agents import Student
from meteor_agents.method.judges import ModelJudge
from meteor_agents.method.replies import CRITERIA
from meteor_agents.method.templates import Templates
from meteor_agents.method.voice import Voice
from meteor_agents.models import ChatMessage, Completion, Occasion, SamplingParams
from tests.cli.test_cli import meteor

QUESTION = Question(id="q", question="What is one plus one?", reference="2")
TEMPLATES = Templates(Path(prompts.__file__).parent)


class Asked:
    """A model as agents see it, that remembers the occasions."""

    def __init__(self, reply: Callable[[str], str]) -> None:
        self.model = ScriptedModel(lambda messages, sampling: reply(messages[-1].content))
        self.occasions: list[Occasion] = []

    async def complete(
        self, messages: Sequence[ChatMessage], sampling: SamplingParams, occasion: Occasion
    ) -> Completion:
        self.occasions.append(occasion)
        return await self.model.complete(messages, sampling)


def voice(reply: Callable[[str], str]) -> Voice:
    return Voice(Asked(reply), TEMPLATES, "sums", SamplingParams())


def scoring(score: int) -> ModelJudge:
    return ModelJudge(voice(lambda text: json.dumps({"justification": f"a {score}", **dict.fromkeys(CRITERIA, score)})))


def attempt(text: str) -> Attempt:
    return Attempt(text=text, reasoning="", answer=text, model="m", weights="w")


def result(score: float | None = None, status: Status = Status.CORRECT, text: str = "2", **more: Any) -> Result:
    scores: dict[str, float] | None = None if score is None else dict.fromkeys(CRITERIA, score)
    return Result(asked="x", attempt=attempt(text), status=status, scores=scores, **more)


def examined(panel: Panel) -> Result:
    student = Student(voice(lambda text: "Answer: 2"))
    return asyncio.run(examine(QUESTION, student, panel, sampling=SamplingParams()))


# scores


def test_a_panel_scores_by_its_mean_and_keeps_what_each_judge_said() -> None:
    found = examined(Panel(judges={"one": scoring(8), "other": scoring(4)}))
    assert found.overall == 6
    assert found.by_judge == {"one": dict.fromkeys(CRITERIA, 8), "other": dict.fromkeys(CRITERIA, 4)}
    assert found.explanation == "a 8 a 4"


def test_a_judge_that_cannot_be_read_never_scores_and_its_question_is_owed_again() -> None:
    mute = ModelJudge(voice(lambda text: "I would rather not."))
    alone = examined(Panel(judges={"mute": mute}))
    assert (alone.status, alone.scores, alone.overall) == (Status.ERROR, None, None)
    beside = examined(Panel(judges={"one": scoring(8), "mute": mute}))
    assert (beside.overall, beside.unread) == (8, 1)
    metrics = summarise({"a": alone, "b": beside}, asked=3)
    assert (metrics.judge_errors, metrics.failed) == (1, 1)
    assert metrics.criteria["overall"].n == 1
    assert metrics.accuracy is None, "no verifier, no accuracy"


def test_a_verifiers_accuracy_stands_beside_the_judges_scores() -> None:
    results = {
        "a": result(9, verified=True),
        "b": result(7, Status.INCORRECT, verified=True),
        "c": result(None, Status.ERROR),
    }
    metrics = summarise(results, asked=3)
    assert metrics.accuracy is not None
    assert (metrics.accuracy.value, metrics.accuracy.n) == (0.5, 2)
    assert metrics.criteria["overall"].value == 8


def test_figures_on_questions_apart_from_training_stand_beside_the_whole() -> None:
    results = {f"q{n}": result(None, Status.CORRECT if n < 5 else Status.INCORRECT) for n in range(10)}
    metrics = summarise(results, asked=10, near_training={"q0", "q1", "q2", "q3", "q4"})
    assert metrics.accuracy is not None
    assert metrics.apart is not None
    assert (metrics.near_training, metrics.accuracy.value, metrics.apart.value) == (5, 0.5, 0)


# comparisons


def test_shares_add_to_one_and_a_win_needs_both_orders() -> None:
    always_first = ModelJudge(voice(lambda text: json.dumps(dict.fromkeys(CRITERIA, "A"))))
    found = asyncio.run(compare(QUESTION, {"judge": always_first}, attempt("1"), attempt("2")))
    shares = summarise_comparison([found])
    assert {estimate.value for estimate in shares.with_.values()} == {0.5}
    assert (shares.flipped, shares.verdicts) == (5, 5)

    longer = ModelJudge(
        voice(
            lambda text: json.dumps(dict.fromkeys(CRITERIA, "A" if "\nlong" in text.split("Reply B")[0] else "B"))
        )
    )
    found = asyncio.run(compare(QUESTION, {"judge": longer}, attempt("short"), attempt("long, so long")))
    swapped = asyncio.run(compare(QUESTION, {"judge": longer}, attempt("long, so long"), attempt("short")))
    with_, without = (summarise_comparison([side]).with_["accuracy"].value for side in (found, swapped))
    assert (with_, without) == (1, 0)


def test_an_unread_comparison_counts_apart() -> None:
    prefers: dict[str, Preference] = {name: Preference(1.0, flipped=False) for name in CRITERIA}
    found = [Compared({"judge": prefers}, 0, 10)] * 9 + [Compared({}, 1, 10)]
    shares = summarise_comparison(found)
    assert (shares.questions, shares.judge_errors, shares.flipped) == (10, 1, 0)
    assert shares.with_["accuracy"].value == 1
    assert shares.at_equal_length is not None


# differences


def test_differences_are_paired_tested_and_say_what_could_be_shown() -> None:
    old = {f"q{n}": result(None, Status.INCORRECT if n < 8 else Status.CORRECT) for n in range(20)}
    new = {f"q{n}": result(None, Status.CORRECT) for n in range(20)}
    (found,) = differences("base", "refine", old, new)
    assert found.measure == ACCURACY
    assert found.difference.value == pytest.approx(0.4)
    assert found.p == pytest.approx(2 / 2**8)
    assert 0.1 < found.smallest < 0.5


def test_scores_are_told_apart_by_criterion_over_the_questions_that_both_have() -> None:
    old = {f"q{n}": result(4) for n in range(10)}
    new = {f"q{n}": result(4 + n % 3) for n in range(5, 15)} | {"q5": result(None, Status.ERROR)}
    found = {difference.measure: difference for difference in differences("a", "b", old, new)}
    assert set(found) == {*CRITERIA, OVERALL}
    assert found[OVERALL].difference.n == 4


# trust


def test_judges_asked_twice_are_compared_score_by_score() -> None:
    once = [result(5), result(7), result(None, Status.ERROR)]
    again = [result(5), result(9), result(3)]
    found = repeats(once, again)
    assert found is not None
    assert (found.questions, found.same.value, found.gap) == (2, 0.5, 1)


def test_judges_of_a_panel_are_compared_with_one_another() -> None:
    results = [
        result(5, by_judge={"a": dict.fromkeys(CRITERIA, n), "b": dict.fromkeys(CRITERIA, n + n % 2 * 2)})
        for n in range(1, 8)
    ]
    (found,) = panel_agreements(results)
    assert found.judges == ("a", "b")
    assert found.within_one == pytest.approx(3 / 7)
    assert found.correlation is not None
    assert found.correlation.value > 0.7


def test_a_judge_that_likes_length_is_found_out() -> None:
    found = length_effect([result(min(10, n), text="x" * n * 20) for n in range(1, 12)])
    assert found is not None
    assert found.correlation.value > 0.95
    assert length_effect([result(5, text="x" * n) for n in range(1, 12)]) is None


@pytest.mark.parametrize(
    ("model", "of"),
    [
        ("gpt-4o", "OpenAI"), ("o3-mini", "OpenAI"), ("openai/gpt-oss-120b", "OpenAI"), ("meta-llama/Llama-3-8B", "Llama"),
        ("Meta-Llama-3-70B", "Llama"), ("models/Qwen2.5-7B-Instruct/", "Qwen"), ("smollm2-135m", "SmolLM"),
        ("claude-opus-4", "Claude"), ("my-own", "my-own"), ("proto3", "proto3"),
    ],
)  # fmt: skip
def test_a_models_family_is_read_from_its_name(model: str, of: str) -> None:
    assert family(model) == of


def test_a_judge_of_the_teachers_or_students_family_is_warned_about() -> None:
    (warning,) = kinships({"judge": "Qwen2.5-72B"}, {"teacher": "gpt-4o", "student": "qwen2-7b"})
    assert "the judge (Qwen2.5-72B) and the student (qwen2-7b) are both of the family Qwen" in warning


# people


def test_agreement_with_people_counts_chance_out_and_errors_apart() -> None:
    pairs: list[tuple[str | int, str | float | None]] = []
    pairs += [("correct", "correct")] * 20 + [("correct", "incorrect")] * 5
    pairs += [("incorrect", "correct")] * 10 + [("incorrect", "incorrect")] * 15 + [("correct", None)] * 2
    found = agreement("judge", pairs, unknown=3)
    assert (found.labels, found.unknown, found.judge_errors) == (55, 3, 2)
    assert found.kappa == pytest.approx(0.4)
    assert found.confusion == {
        "correct": {"correct": 20, "incorrect": 5},
        "incorrect": {"correct": 10, "incorrect": 15},
    }
    scored = agreement("judge", [(n, n + 0.4) for n in range(1, 9)], unknown=0)
    assert scored.correlation is not None
    assert scored.correlation.value == pytest.approx(1)


def test_labels_are_read_from_jsonl_and_csv(tmp_path: Path) -> None:
    rows = ['{"id": "q1", "label": "Correct", "reply": "2"}', "", '{"id": "q2", "label": "incorrect"}']
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    (tmp_path / "b.csv").write_text("id,label,reply\nq1,7,\nq2,3,some words\n")
    words, scores = (read_labels(tmp_path / name) for name in ("a.jsonl", "b.csv"))
    assert [(label.id, label.label, label.reply) for label in words] == [
        ("q1", "correct", "2"),
        ("q2", "incorrect", None),
    ]
    assert [(label.label, label.reply) for label in scores] == [(7, None), (3, "some words")]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"id": "q1", "label": "maybe"}', "line 1 .* neither correct nor incorrect"),
        ('{"id": "q1", "label": 11}', "from 1 to 10"),
        ('{"label": "correct"}', "line 1 .* id"),
        ('{"id": "q1", "label": "correct"}\n{"id": "q2", "label": 3}', "line 2 .* scores and words"),
        ("nonsense", "line 1 .* not JSON"),
        ("[1]", "must be a JSON object"),
        ("", "holds no label"),
    ],
)
def test_a_mistake_in_a_file_of_labels_is_named_with_its_line(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "labels.jsonl").write_text(content)
    with pytest.raises(SettingsError, match=complaint):
        read_labels(tmp_path / "labels.jsonl")


# overlap


def ask(id_: str, text: str) -> Question:
    return Question(id=id_, question=text)


def test_exact_and_near_duplicates_of_training_questions_are_found() -> None:
    train = [
        ask("t1", "How many loans were taken in the month 2023-02?"),
        ask("t2", "Why does my model not converge when I raise the learning rate?"),
        ask("t3", "What is a tensor?"),
    ]
    held = [
        ask("h1", "how many loans were taken in the month  2023-02"),
        ask("h2", "In the month 2023-06, how many loans were taken?"),
        ask("h3", "Which optimiser is best for sparse gradients?"),
    ]
    found = find_near_duplicates(train, held)
    assert (found.questions, found.exact) == (3, 1)
    assert [(near.heldout, near.train) for near in found.near] == [("h1", "t1"), ("h2", "t1")]
    assert found.near[0].alike == 1 > found.near[1].alike >= 0.85
    assert "2 of 3 questions nearly repeat one of training (1 word for word)" in found.sentence("mine")


def test_overlap_is_looked_for_again_only_when_a_question_has_changed() -> None:
    train, held = [ask("t", "What is one plus one?")], {"held out": [ask("h", "What is two plus two?")]}
    first = find_near_duplicates_by_set([train], held)
    assert find_near_duplicates_by_set([train], held, first) is first
    changed = {"held out": [ask("h", "What is one plus one")]}
    assert find_near_duplicates_by_set([train], changed, first).sets["held out"].exact == 1


# all of it, as a user has it

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


def test_near_duplicates_are_the_same_however_many_are_compared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    train = [ask(f"t{i}", f"Which book number {i} was lent to reader {i * i}?") for i in range(40)]
    held = [ask(f"h{i}", f"Which book number {i} was lent to the reader {i}?") for i in range(12)]
    at_once = find_near_duplicates(train, held)
    assert at_once.near
    monkeypatch.setattr("meteor_agents.data.near_duplicates.AT_ONCE", 7)
    assert [(near.heldout, near.alike) for near in find_near_duplicates(train, held).near] == [
        (near.heldout, near.alike) for near in at_once.near
    ]


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
