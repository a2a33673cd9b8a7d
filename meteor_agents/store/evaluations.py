"""The rows of the store's `evaluations` table: what was found about a checkpoint on one held-out set."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any, NamedTuple

from meteor_agents.errors import StoreError


class EvaluationKind(StrEnum):
    """What an evaluation holds."""

    METRICS = "metrics"
    """The figures of one checkpoint or rival."""
    DIFFERENCES = "differences"
    """Paired differences between the students of the run."""
    PAIRWISE = "pairwise"
    """Win shares of the last checkpoint against one other student."""
    JUDGE_RELIABILITY = "judge reliability"
    """How far the judges can be relied on."""


class EvaluationRecord(NamedTuple):
    """One row. `checkpoint`, `heldout`, `recipe`, `kind` and `against` identify it; a second one replaces the first."""

    checkpoint: str
    heldout: str
    recipe: str
    kind: EvaluationKind
    against: str
    """The label of the other student of a pairwise comparison; empty for the other kinds."""
    label: str
    """Whose metrics these are: a stage of the lineage or a rival's name. Empty for the other kinds."""
    metrics: dict[str, Any]


def evaluation_record(
    checkpoint: str, heldout: str, recipe: str, kind: str, against: str, label: str, metrics: str
) -> EvaluationRecord:
    """The record of a row as SQLite returns it. Raises `StoreError` when the row is damaged."""
    try:
        content = json.loads(metrics)
        if not isinstance(content, dict):
            raise ValueError(f"expected an object, found {type(content).__name__}")
        return EvaluationRecord(checkpoint, heldout, recipe, EvaluationKind(kind), against, label, content)
    except (ValueError, RecursionError) as error:
        raise StoreError(
            f"the stored evaluation ({kind}) of checkpoint {checkpoint} on {heldout!r} is damaged: {error}; restore run.db "
            "from a copy, or delete this row from its table `evaluations` and run `meteor evaluate` again"
        ) from error


EVALUATIONS_OF_VERSION_2 = """
SELECT checkpoint,
    CASE kind WHEN 'metrics' THEN heldout WHEN 'pairwise' THEN substr(heldout, 1, instr(heldout, ': pairwise against ') - 1)
        ELSE substr(heldout, 1, length(heldout) - length(': ' || label)) END AS heldout,
    recipe, replace(kind, 'trust', 'judge reliability') AS kind,
    CASE kind WHEN 'pairwise' THEN substr(heldout, instr(heldout, ': pairwise against ') + 19) ELSE '' END AS against,
    CASE kind WHEN 'metrics' THEN label ELSE '' END AS label, metrics, position
FROM (SELECT checkpoint, heldout, recipe, label, metrics, position, CASE
    WHEN label = 'pairwise' AND instr(heldout, ': pairwise against ') THEN 'pairwise'
    WHEN label IN ('differences', 'trust') AND substr(heldout, -length(': ' || label)) = ': ' || label THEN label
    ELSE 'metrics' END AS kind FROM main.{table})
"""
"""Rows of version 2, which told the kind by the label and by a suffix of the held-out set's name."""
