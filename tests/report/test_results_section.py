"""Whose figures the page shows where: checkpoints, rivals, held-out sets of any name, and damage in the store."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

from meteor_agents.errors import StoreError
from meteor_agents.evaluation.comparison import WinShares
from meteor_agents.evaluation.differences import PairedDifference
from meteor_agents.evaluation.judge_reliability import JudgeReliability
from meteor_agents.evaluation.results import OVERALL, GradedReply, Metrics, Statistic
from meteor_agents.messages import Attempt, Message, Question, Status
from meteor_agents.models import Completion, FinishReason, Usage
from meteor_agents.pipeline.stages.measurement import RIVALS
from meteor_agents.report import write_report
from meteor_agents.report.charts import charts
from meteor_agents.report.contents import read_contents
from meteor_agents.store.call_records import NewCall
from meteor_agents.store.evaluations import EvaluationKind, EvaluationRecord
from meteor_agents.store.records import open_for_reading
from meteor_agents.store.store import Store
from tests.report.test_report import page_of, trace, write_traces


def statistic(value: float) -> Statistic:
    return Statistic(value=value, low=value - 0.5, high=value + 0.5, n=40)


def metrics(score: float, *, apart: float | None = None) -> Metrics:
    return Metrics(
        questions=40,
        failed=0,
        judge_errors=0,
        truncated=0,
        criteria={OVERALL: statistic(score)},
        near_training=3 if apart else 0,
        apart=statistic(apart) if apart else None,
    )


def measured(folder: Path, heldout: Mapping[str, Mapping[str, Metrics]], *beside: EvaluationRecord) -> Path:
    """The store of a run with these figures by held-out set and student; those not of the lineage are rivals."""
    students = list(dict.fromkeys(label for found in heldout.values() for label in found))
    own = [label for label in students if label in ("base", "finetune", "refine", "self-train")]

    async def write() -> None:
        await store.set_meta("lineage", {label: {"version": f"v-{label}"} for label in own})
        await store.set_meta(RIVALS, {label: f"v-{label}" for label in students if label not in own})
        for name, found in heldout.items():
            for label, given in found.items():
                await store.add_evaluation(evaluation(label, name, EvaluationKind.METRICS, given))
        for record in beside:
            await store.add_evaluation(record)

    with closing(Store(folder / "run.db")) as store:
        asyncio.run(write())
    return folder / "run.db"


def evaluation(label: str, heldout: str, kind: EvaluationKind, content: Message, against: str = "") -> EvaluationRecord:
    stored = content.model_dump(mode="json")
    found = {"pairs": [stored]} if kind is EvaluationKind.DIFFERENCES else stored
    return EvaluationRecord(f"v-{label}", heldout, "recipe", kind, against, label, found)


def visible(database: Path) -> str:
    text = page_of(database, library=None).read_text()
    return " ".join(re.sub(r"<[^>]+>", " ", text[text.index("<main") : text.index("</main>")]).split())


def test_headline_shows_the_last_checkpoint_and_not_a_rival(tmp_path: Path) -> None:
    found = {"base": metrics(6.41), "self-train": metrics(6.57), "rival": metrics(6.60)}
    text = visible(measured(tmp_path, {"held out": found}))
    assert "held out 6.41 → to 6.57 overall score of 10, first to last checkpoint" in text
    assert "6.60" in text, "in the table"


def test_headline_of_a_run_that_measured_rivals_only_is_left_out(tmp_path: Path) -> None:
    text = visible(measured(tmp_path, {"held out": {"rival": metrics(6.6)}}))
    assert "overall score of 10" not in text
    assert "6.60" in text


def test_figure_apart_from_training_is_that_of_the_last_checkpoint_and_not_a_rivals(tmp_path: Path) -> None:
    found = {"base": metrics(5, apart=4.5), "refine": metrics(7, apart=6.5), "rival": metrics(8, apart=7.5)}
    text = visible(measured(tmp_path, {"held out": found}))
    assert "3 of these questions nearly repeat a training question; on the others the last checkpoint has 6.50" in text
    assert "checkpoint has 7.50" not in text


@pytest.mark.parametrize("name", ["maths: trust", "maths: differences", "maths: pairwise against base", "<b>&"])
def test_a_held_out_set_may_have_any_name(tmp_path: Path, name: str) -> None:
    difference = PairedDifference(
        before="base", after="refine", measure=OVERALL, difference=statistic(2), p=0.01, smallest=0.7
    )
    shares = WinShares(questions=40, judge_errors=0, flipped=0, with_={"accuracy": statistic(0.75)})
    reliability = JudgeReliability(kinships=("the judge resembles the student",))
    database = measured(
        tmp_path,
        {"maths": {"base": metrics(5), "refine": metrics(7)}, name: {"base": metrics(3), "refine": metrics(4)}},
        evaluation("refine", name, EvaluationKind.DIFFERENCES, difference),
        evaluation("refine", name, EvaluationKind.PAIRWISE, shares, "base"),
        evaluation("refine", name, EvaluationKind.JUDGE_RELIABILITY, reliability),
    )
    with closing(open_for_reading(database)) as records:
        maths, other = read_contents(records).heldout
    assert (maths.name, list(maths.metrics), maths.differences, maths.pairwise) == ("maths", ["base", "refine"], (), {})
    assert (other.name, other.differences, other.pairwise) == (name, (difference,), {"base": shares})
    assert (maths.reliability, other.reliability) == (None, reliability)
    assert "Judges were not examined yet" in visible(database), "those of maths"


def test_dollars_stand_beside_each_role_and_unknown_prices_are_said(tmp_path: Path) -> None:
    async def write() -> None:
        for n, (role, usd) in enumerate((("teacher", 0.25), ("judge", 0.004), ("judge", None), ("student", None))):
            reply = Completion("x", FinishReason.COMPLETE, Usage(input_tokens=10, output_tokens=5), "m", "w")
            await store.add_call(NewCall(f"k{n}", role, "distill", "q", 1, "{}", 9, reply, usd, 0.1))

    with closing(Store(tmp_path / "run.db")) as store:
        asyncio.run(write())
    text = visible(tmp_path / "run.db")
    assert "teacher 1 0 0 0 10 5 $0.25" in text
    assert "judge 2 0 0 0 20 10 at least $0.004" in text
    assert "student 1 0 0 0 10 5 unknown" in text
    with closing(open_for_reading(tmp_path / "run.db")) as records:
        (over_time,) = (chart for chart in charts(read_contents(records)) if chart.title == "Tokens over time")
    assert over_time.layout["xaxis"]["title"]["text"] == "seconds"


def test_page_of_a_run_that_has_just_begun_says_so_in_place_of_empty_tables(tmp_path: Path) -> None:
    Store(tmp_path / "run.db").close()
    text = visible(tmp_path / "run.db")
    for said in ("Nothing was measured yet", "No stage has begun yet", "No model was called yet", "No question has been"):
        assert said in text, said
    assert "<table" not in (tmp_path / "report.html").read_text()


# damage

REPLY = GradedReply(
    asked="x", attempt=Attempt(text="2", reasoning="", answer="2", model="m", weights="w"), status=Status.CORRECT
)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("UPDATE scores SET result = '{'", "result of held-out question 'q' is damaged"),
        ("UPDATE scores SET result = replace(result, 'correct', 'perhaps')", "result of held-out question 'q' is damaged"),
        ("UPDATE evaluations SET metrics = '{\"questions\": 1}'", r"evaluation \(metrics\) on 'held out' is damaged"),
        ("UPDATE evaluations SET metrics = 'null'", "is damaged: expected an object"),
        ("UPDATE evaluations SET kind = 'nonsense'", "is damaged: 'nonsense' is not a valid"),
        ("UPDATE traces SET messages = '[{}]'", "the trace of question 'q' in refine is broken"),
        ("UPDATE traces SET question = '['", "the trace of question 'q' in refine is broken"),
        ("UPDATE traces SET messages = printf('%.*c', 9000, '[')", "the trace of question 'q' in refine is broken"),
    ],
)
def test_damage_in_the_store_is_told_in_one_sentence(tmp_path: Path, change: str, complaint: str) -> None:
    database = measured(tmp_path, {"held out": {"base": metrics(5)}})
    write_traces(database, [trace(1).model_copy(update={"question": Question(id="q", question="?")})])
    with closing(Store(database)) as store:
        asyncio.run(store.add_score("v-base", "held out", "recipe", "q", REPLY.model_dump_json()))
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(change)
        connection.commit()
    with closing(open_for_reading(database)) as records, pytest.raises(StoreError, match=complaint):
        write_report(records, tmp_path / "report.html", name="run", library=None)
    assert not (tmp_path / "report.html").exists()
