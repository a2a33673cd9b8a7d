"""Where a run stands, read from its store: the object that `meteor status --json` prints."""

from __future__ import annotations

from typing import Any

from meteor_agents.pipeline.checkpoints import LINEAGE
from meteor_agents.pipeline.measurement import RIVALS
from meteor_agents.store.records import Records
from meteor_agents.store.stage_records import StageRecord
from meteor_agents.traces import Outcome


def read_status(records: Records) -> dict[str, Any]:
    """`stages`, `calls`, `tokens`, `usd`, `rounds`, `scores` (the contract of `meteor status --json`).

    `stages`, `rounds` and `scores` are those of the run as it is set up now: of work under settings that have been
    edited since, only calls, tokens and money are counted. `usd` is None while the price of some calls is not known.
    """
    spent = records.spent_by_role()
    everything = records.spent()
    current = records.current_stages()
    lineage = records.lineage()
    return {
        "stages": {stage.name: _stage(records, stage) for stage in current},
        "calls": _calls(records),
        "tokens": {role: {"input": used.input_tokens, "output": used.output_tokens} for role, used in spent.items()},
        "usd": None if everything.unpriced else everything.usd,
        "rounds": [found for stage in current for found in _rounds(records, stage)],
        "scores": {
            version: {
                "labels": [label for label in LINEAGE if lineage.get(label) == version],
                "heldout": records.evaluations(version),
            }
            for version in (lineage[label] for label in LINEAGE if label in lineage)
        }
        | {
            version: {"labels": [name], "heldout": records.evaluations(version)}
            for name, version in records.meta(RIVALS, {}).items()
        },
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
