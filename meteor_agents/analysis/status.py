"""The state of a run, read from its store: the object that `meteor status --json` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from meteor_agents.analysis.held_out import newest_evaluations, read_students
from meteor_agents.store.evaluations import EvaluationKind, EvaluationRecord
from meteor_agents.store.records import Records
from meteor_agents.store.stage_records import StageRecord
from meteor_agents.traces import Outcome


def read_status(records: Records) -> dict[str, Any]:
    """`stages`, `calls`, `tokens`, `usd`, `rounds`, `scores` (the contract of `meteor status --json`).

    `stages`, `rounds` and `scores` describe the run under its current settings; calls, tokens and money also include work
    done under earlier settings. `usd` is None if the price of some calls is unknown. Raises `StoreError`.
    """
    spent = records.spent_by_role()
    everything = records.spent()
    current = records.current_stages()
    students, evaluations = read_students(records), newest_evaluations(records)
    return {
        "stages": {stage.name: _stage(records, stage) for stage in current},
        "calls": _calls(records),
        "tokens": {role: {"input": used.input_tokens, "output": used.output_tokens} for role, used in spent.items()},
        "usd": None if everything.unpriced else everything.usd,
        "rounds": [found for stage in current for found in _rounds(records, stage)],
        "scores": {version: _scores(version, students, evaluations) for version in students.values()},
    }


def _scores(version: str, students: Mapping[str, str], evaluations: Sequence[EvaluationRecord]) -> dict[str, Any]:
    """The labels of this version and its results: metrics by the held-out set's name, other kinds by that name and a suffix.

    If another held-out set has that very name, its metrics are shown.
    """
    own = [evaluation for evaluation in evaluations if evaluation.checkpoint == version]
    metrics = {e.heldout: e.metrics for e in own if e.kind is EvaluationKind.METRICS}
    beside = {e.heldout + _SUFFIXES[e.kind] + e.against: e.metrics for e in own if e.kind in _SUFFIXES}
    return {
        "labels": [label for label, student in students.items() if student == version],
        "heldout": {**metrics, **{name: content for name, content in beside.items() if name not in metrics}},
    }


_SUFFIXES = {
    EvaluationKind.DIFFERENCES: ": differences",
    EvaluationKind.PAIRWISE: ": pairwise against ",
    EvaluationKind.JUDGE_RELIABILITY: ": trust",
}


def _stage(records: Records, stage: StageRecord) -> dict[str, Any]:
    totals = records.trace_totals(stage.name, stage.recipe)
    by_outcome = {outcome.value: sum(n for found, _, n in totals if found == outcome) for outcome in Outcome}
    by_try = {tries: n for outcome, tries, n in totals if outcome == Outcome.ACCEPTED}
    return {
        "questions": stage.questions,
        **by_outcome,
        "state": stage.state,
        "seconds": round(stage.seconds, 1),
        "checkpoint": stage.checkpoint,
        "accepted_at_try": {str(tries): n for tries, n in sorted(by_try.items())},
    }


def _rounds(records: Records, stage: StageRecord) -> list[dict[str, Any]]:
    return [
        {
            "stage": stage.name,
            "round": round_.round,
            "traces": len(round_.traces),
            "checkpoint": round_.checkpoint,
            "promoted": round_.promoted,
            "reason": round_.reason,
            "loss": round_.report.get("loss"),
            "tokens": round_.report.get("tokens", 0),
            "rows_too_long": round_.report.get("rows_too_long", 0),
            "left_out": round_.report.get("left_out", {}),
        }
        for round_ in records.rounds(stage.name, stage.recipe)
    ]


def _calls(records: Records) -> dict[str, dict[str, int]]:
    nothing = {"made": 0, "reused": 0, "retried": 0, "failed": 0, "refused": 0, "filtered": 0}
    calls = {role: {**nothing, "made": spent.calls} for role, spent in records.spent_by_role().items()}
    for role, name, value in records.counters():
        if name in nothing:
            calls.setdefault(role, dict(nothing))[name] = value
    return calls
